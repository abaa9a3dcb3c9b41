"""Figures of a sweep's report."""
