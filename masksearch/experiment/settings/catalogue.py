"""All settings by their key (``train.momentum``), each with its type and help text; which of them are flags."""

import inspect
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from masksearch.experiment.settings.all_settings import NESTED, Settings
from masksearch.experiment.settings.text_values import ValueType, value_types
from masksearch.utils.field_docstrings import field_texts

FLAGS = {
    "data": "dataset task image_size data_root download train_examples search_examples",
    "network": "model granularity dense",
    "masks": "methods sparsity max_macs max_params max_latency layer_sparsity find_at scope hold on_empty connected",
    "search": "budget seconds objective saliencies warm_start finalists rescore rescore_by training_steps "
    "training_lr proposals",
    "training": "epochs batch_size optimizer lr weight_decay lr_schedule",
    "schedule": "schedule rounds rewind_to retrain_epochs retrain_lr reconstruct control",
    "run and output": "seeds first_seed name runs device threads executor plugin",
}
"""Topic -> names of the settings that are flags of ``masksearch run``; ``--set`` takes all settings."""


@dataclass(frozen=True)
class Setting:
    """One setting of a sweep, with its group, name, type, default and help text."""

    group: str  # name of the field of Settings: train
    name: str
    type: ValueType
    default: Any
    text: str  # help; its first line is the short help

    @property
    def key(self) -> str:
        """Key of a setting: its group and name, such as ``train.momentum``."""
        return f"{self.group}.{self.name}"

    @property
    def flag(self) -> str:
        """Command-line flag of a setting, such as ``--batch-size``."""
        return f"--{self.name.replace('_', '-')}"

    def value(self, settings: Settings) -> Any:
        """Return the value that this setting has in ``settings``."""
        return getattr(getattr(settings, self.group), self.name)


@cache
def settings_by_key() -> dict[str, Setting]:
    """Return all settings of a sweep as {key: setting}, by group; a key is such as ``train.momentum``."""
    found = {}
    for group in fields(Settings):
        default = getattr(Settings(), group.name)
        types = value_types(type(default))
        for name, _, text in field_texts(inspect.getsource(type(default))):
            setting = Setting(group.name, name, types[name], getattr(default, name), text)
            found[setting.key] = setting
    return found


@cache
def flags_by_topic() -> dict[str, list[Setting]]:
    """Return the settings that are flags of ``masksearch run``, as {topic of the help: list of settings}."""
    by_name = {setting.name: setting for setting in settings_by_key().values() if setting.group not in NESTED}
    return {topic: [by_name[name] for name in names.split()] for topic, names in FLAGS.items()}


@cache
def flag_keys() -> frozenset[str]:
    """Return the keys, such as ``train.momentum``, of those settings that are flags of ``masksearch run``."""
    return frozenset(setting.key for settings in flags_by_topic().values() for setting in settings)
