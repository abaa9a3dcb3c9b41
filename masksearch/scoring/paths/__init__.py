"""Paths: ways to compute the outputs of a masked network, one slow and exact, the others faster."""
