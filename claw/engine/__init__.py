"""Prefix sharing and packing: the fast path through a decoder, which runs the head only where something is scored."""
