"""Masks, spaces, proposals and histories; no networks."""
