"""What a run will need on devices that are not there: small runs are measured, and drawn out to its size."""
