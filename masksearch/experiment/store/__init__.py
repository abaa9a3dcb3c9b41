"""Folders and files of runs."""
