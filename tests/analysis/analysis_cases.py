"""Metrics of cells as a sweep leaves them, with figures that can be told apart."""


def make_round(number=1, seed=0, density=0.1, trains=True):
    """Metrics of a round: its accuracies tell moment, round and seed."""
    moments = {"found": 0.2, "untrained": 0.3, "best_dense": 0.4, "trained": 0.8}
    looks = {
        name: {"test_accuracy": value + 0.01 * number + 0.02 * seed, "test_loss": 2 - value - 0.1 * number}
        for name, value in moments.items()
    }
    looks["trained"] |= {
        "val_accuracy": 0.7 if trains else None,
        "best_val_epoch": 2 + seed if trains else None,
        "constant_outputs": 9 if seed == 2 else 0,
        "diverged": False,
    }
    epochs = [
        {"epoch": epoch, "train_loss": 1 / epoch, "val_accuracy": 0.5 + 0.1 * epoch + 0.02 * seed}
        for epoch in (1, 2, 3)
    ]
    return {
        "number": number,
        "score": {"objective": "accuracy", "accuracy_gap": 0.01 * (seed + 1), "scorings": 100},
        **looks,
        "mask": {"density": density, "empty_layers": ["fc1"] if seed == 1 else []},
        "epochs": epochs if trains else [],
    }


def make_dense(seed=0, epochs=4):
    """Metrics of the dense network of a seed, with its epochs."""
    return {
        "test_accuracy": 0.95 + 0.01 * seed,
        "test_loss": 0.2,
        "best_test_accuracy": 0.96 + 0.01 * seed,
        "best_test_loss": 0.1,
        "best_val_epoch": 3,
        "cost": {"params": 1010, "nonzero_params": 1000, "macs": 5000, "effective_macs": 5000},
        "epochs": [
            {"epoch": epoch, "train_loss": 2 / epoch, "val_accuracy": [0.5, 0.7, 0.9, 0.8][epoch - 1]}
            for epoch in range(1, epochs + 1)
        ],
    }


def make_cell(method="snip", sparsity=0.9, seed=0, rounds=1, **changes):
    """Metrics of a cell; figures depend on the seed."""
    density = 1 - sparsity
    rows = [make_round(number, seed, density ** (number / rounds)) for number in range(1, rounds + 1)]
    dense = make_dense(seed)
    return {
        "method": method,
        "learned": False,
        "granularity": "weight",
        "sparsity": sparsity,
        "find_at": "0",
        "seed": seed,
        "schedule": "one_shot" if rounds == 1 else "lottery_ticket",
        "n_rounds": rounds,
        "rewind_to": "0",
        "retrain_lr": None,
        "control": "none",
        "settings": {"dense": {"seed": seed, "training": {"lr": 0.1}}, "scope": "global"},
        **{name: value for name, value in rows[-1].items() if name != "number"},
        "rounds": rows,
        "dense": {name: value for name, value in dense.items() if name != "epochs"},
        "cost": {"nonzero_params": 100, "effective_macs": 500 * (seed + 1)},
        "layers": {
            name: {"macs": 10 * n, "weights": n, "macs_left": 10 * n * density, "weights_left": n * density}
            for name, n in (("fc1", 600), ("fc2", 400))
        },
        "seconds": {
            "search": 2.0 + seed,
            "retrain": 4.0,
            "test": 0.5,
            "latency_dense_batch_64": 0.004,
            "latency_ticket_batch_64": 0.001 * (seed + 1),
        },
    } | changes
