"""Settings of version 0.1.0 that later versions do not have: what to do instead. Commit 0aa3cbb still has them all."""

_MEASURED = "its measurements are in docs/results/tried.md"
_SUBSETS = (
    "removed after 0.1.0: a search scores on one set of examples; growing subsets were cheaper at equal scorings, and "
    f"not better; {_MEASURED}"
)
_TEMPERATURE = (
    "removed after 0.1.0: annealing measures its temperature from the scores; give accept_start and accept_end"
)
_COST = "removed after 0.1.0: no result depends on it; max_macs and max_params bound the cost of masks"

REMOVED: dict[str, str] = {
    "subsets": _SUBSETS,
    "subset_stages": _SUBSETS,
    "compression": "removed after 0.1.0: give the sparsity 1 - 10^-A for each compression A",
    "workers": "removed after 0.1.0: give executor, such as processes:4 or inline",
    "cost_of": _COST,
    "cost_weight": _COST,
    "optuna.pruner": f"removed after 0.1.0: stopping bad trials early made searches worse; {_MEASURED}",
    "annealing.tabu": "removed after 0.1.0: only annealing_thesis_mlp and annealing_thesis_cnn remember visited masks",
    "annealing.reheat_after": f"removed after 0.1.0: reheating did not pay; {_MEASURED}",
    "annealing.acceptance": f"removed after 0.1.0: the radius follows radius_start and radius_end; {_MEASURED}",
    "annealing.temperature_start": _TEMPERATURE,
    "annealing.temperature_end": _TEMPERATURE,
}
"""Name of the setting -> sentence. Settings of annealing and Optuna begin with the group: ``annealing.tabu``."""
