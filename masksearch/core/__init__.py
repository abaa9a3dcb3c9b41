"""Pruning masks, the spaces of masks to choose from, densities, and histories of searches; no networks."""
