"""Which temperatures are sampled at, and which are greedy. No torch here."""

GREEDY_BELOW = 1e-5
"""A temperature under it is greedy: logits divided by it leave float32 (0 / 0, infinities)."""
