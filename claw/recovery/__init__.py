"""Recovery fine-tuning: a compressed model trained a little further, for a budget of tokens really seen."""
