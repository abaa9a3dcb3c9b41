"""The steps of a cell: find a mask, rank by a criterion, retrain, evaluate."""
