"""Utilities: errors, tables of components, files, locks, and seeds."""
