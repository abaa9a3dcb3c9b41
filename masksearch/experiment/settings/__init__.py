"""Settings of a sweep, by group. Flags, recipes and identities of cells derive from their fields."""

from masksearch.experiment.settings.all_settings import RunSettings, ScoringSettings, Settings, SweepSettings

__all__ = ["RunSettings", "ScoringSettings", "Settings", "SweepSettings"]
