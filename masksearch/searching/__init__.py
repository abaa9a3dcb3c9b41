"""The search loop, searches in subspaces, and histories on disk."""
