"""Results of cells with changed values, for tests of functions that read results."""

from dataclasses import fields, is_dataclass, replace


def changed(result, **changes):
    """A result with other values. A dict changes fields of a part; fields that only rounds have are of the last one."""
    own = {item.name for item in fields(result)}
    last = {name: changes.pop(name) for name in list(changes) if name not in own}
    if last:
        changes["rounds"] = [*result.rounds[:-1], changed(result.rounds[-1], **last)]
    return replace(result, **{name: _changed_part(getattr(result, name), value) for name, value in changes.items()})


def _changed_part(old, new):
    return changed(old, **new) if is_dataclass(old) and isinstance(new, dict) else new
