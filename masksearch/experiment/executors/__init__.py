"""Executors: several processes that run the cells of a sweep side by side."""
