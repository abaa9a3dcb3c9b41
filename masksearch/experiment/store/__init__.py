"""Storage of runs: their folders and files, on disk and in object storage."""
