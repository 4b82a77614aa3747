"""PTMRec: parameter-efficient tuning of a vision-language model together with a recommender."""
