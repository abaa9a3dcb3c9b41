"""All settings by their key (``train.momentum``), each with its type and help text; which of them are flags."""

import ast
import inspect
from dataclasses import dataclass, fields
from functools import cache
from itertools import pairwise
from textwrap import dedent
from typing import Any, get_type_hints

from masksearch.experiment.settings.combined import Settings

__all__ = ["FLAGS", "Setting", "field_texts", "flag_keys", "settings_by_key"]

FLAGS: dict[str, tuple[str, ...]] = {
    "data": (
        "sweep.dataset",
        "run.data_root",
        "run.download",
        "scoring.train_examples",
        "scoring.val_examples",
        "scoring.search_examples",
    ),
    "network": ("sweep.model", "sweep.granularity", "sweep.dense"),
    "masks": (
        "sweep.methods",
        "sweep.sparsity",
        "sweep.max_macs",
        "sweep.max_params",
        "sweep.max_latency",
        "sweep.layer_sparsity",
        "sweep.find_at",
        "scoring.scope",
        "scoring.hold",
        "scoring.on_empty",
        "scoring.connected",
    ),
    "search": (
        "sweep.budget",
        "scoring.seconds",
        "sweep.objective",
        "search.saliencies",
        "search.warm_start",
        "search.finalists",
        "search.rescore",
        "search.rescore_by",
        "search.rescore_steps",
        "search.training_steps",
        "search.training_lr",
        "search.proposals",
    ),
    "training": (
        "train.epochs",
        "train.batch_size",
        "train.optimizer",
        "train.lr",
        "train.weight_decay",
        "train.lr_schedule",
    ),
    "schedule": (
        "schedules.schedule",
        "schedules.rounds",
        "schedules.rewind_to",
        "schedules.retrain_epochs",
        "schedules.retrain_lr",
        "schedules.control",
    ),
    "run and output": (
        "sweep.seeds",
        "sweep.first_seed",
        "run.name",
        "run.runs",
        "run.device",
        "run.threads",
        "run.workers",
        "run.deterministic",
        "run.plugin",
    ),
}
"""Topic -> keys of the settings that are flags of ``masksearch run``; ``--set`` takes all settings."""


@dataclass(frozen=True)
class Setting:
    """One field of the settings."""

    group: str  # name of the field of Settings: train
    name: str
    hint: Any  # its type
    default: Any
    text: str  # help, in one line

    @property
    def key(self) -> str:
        """``train.momentum``."""
        return f"{self.group}.{self.name}"

    @property
    def flag(self) -> str:
        """The name on the command line, such as ``--batch-size``, of a setting that has a flag of its own."""
        return f"--{self.name.replace('_', '-')}"


@cache
def settings_by_key() -> dict[str, Setting]:
    """Return all settings by key, in the order of their groups."""
    found = {}
    usual = Settings()
    for group in fields(Settings):
        own = getattr(usual, group.name)
        hints, texts = get_type_hints(type(own)), field_texts(type(own))
        for item in fields(own):
            setting = Setting(group.name, item.name, hints[item.name], getattr(own, item.name), texts[item.name])
            found[setting.key] = setting
    return found


@cache
def flag_keys() -> frozenset[str]:
    """Return the keys of all settings that are flags."""
    return frozenset(key for keys in FLAGS.values() for key in keys)


def field_texts(group: type) -> dict[str, str]:
    """Return the docstrings below the fields of a dataclass, by name, each in one line."""
    [definition] = ast.parse(dedent(inspect.getsource(group))).body
    assert isinstance(definition, ast.ClassDef)
    return {
        item.target.id: " ".join(str(text.value.value).split())
        for item, text in pairwise(definition.body)
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }
