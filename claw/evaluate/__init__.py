"""Held-out loss, lm-eval tasks and speed of one model, measured alike for dense and compressed ones."""
