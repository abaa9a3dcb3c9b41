"""Rows of a sweep with the columns that tables and figures use."""


def row_of(method, sparsity, seed, test, val, **changes):
    return {
        "method": method,
        "sparsity": str(sparsity),
        "seed": str(seed),
        "find_at": "0",
        "control": "none",
        "schedule": "one_shot",
        "scope": "global",
        "dense.params": "1000",
        "dense.macs": "40",
        "dataset": "digits",
        "model": "fc",
        "granularity": "weight",
        "trained.test_accuracy": str(test),
        "trained.val_accuracy": str(val),
        "cost.nonzero_params": str(round(1000 * (1 - sparsity))),
        "cost.effective_macs": "10" if method == "snip" else "20",
        "masksearch": "0.1.0",
        "torch": "2",
        "device": "cpu",
        "threads": "1",
        "sweep": "one",
    } | changes
