"""Current masks of searches, with the moves (swaps of units) that each kind of search allows."""
