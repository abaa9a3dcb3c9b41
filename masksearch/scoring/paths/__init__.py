"""Paths from a proposal to logits: the reference, and faster ones that lead to the same decisions."""
