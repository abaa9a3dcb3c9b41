"""Tables of a sweep's report."""
