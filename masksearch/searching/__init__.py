"""The search loop, searches among units that earlier rounds have kept, and histories on disk."""
