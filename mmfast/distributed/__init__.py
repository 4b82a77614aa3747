"""Training one model by several ranks: who has which entries, rows and tables, and how gradients come together."""
