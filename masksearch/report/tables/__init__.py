"""Tables of a sweep."""
