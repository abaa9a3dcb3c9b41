"""Utilities: errors, tables of components, files, random streams."""
