"""The steps of a sweep's cell: find a mask, rank units by a criterion, retrain, evaluate."""
