"""The fast path through a decoder: shared prefixes once, the head only where something is scored."""
