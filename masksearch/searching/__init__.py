"""The search loop, searches within what is left alive, and histories on disk."""
