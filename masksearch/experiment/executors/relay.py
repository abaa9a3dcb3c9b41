"""The relay: a callback in a worker process that sends all events to the callback of the main process."""

from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from time import monotonic
from typing import Any

from masksearch.core.protocol import Trial
from masksearch.experiment.events import SweepCallback

__all__ = ["Event", "relay", "replay"]

Event = tuple[str, tuple[Any, ...]]
"""The name of a hook of :class:`SweepCallback`, and its arguments."""

_SECONDS = 0.1  # between two messages about trials and epochs, at the least
_FREQUENT = ("trial", "epoch", "rescored")


class _Relay(SweepCallback):
    """Sends events through a pipe, frequent ones in bundles. Masks of trials stay behind."""

    def __init__(self, pipe: "Connection[Any, Any]") -> None:
        self._pipe, self._events, self._sent = pipe, list[Event](), 0.0

    def add(self, hook: str, arguments: tuple[Any, ...]) -> None:
        """Take an event, and send all that wait unless the last message is young."""
        self._events.append((hook, arguments))
        if hook not in _FREQUENT or monotonic() - self._sent > _SECONDS:
            self._pipe.send(self._events)
            self._events, self._sent = [], monotonic()


def _hook(name: str) -> Callable[..., None]:
    def sent(self: _Relay, *arguments: object) -> None:
        plain = (replace(value, mask=None) if isinstance(value, Trial) else value for value in arguments)
        self.add(name, tuple(plain))

    return sent


for _name in [name for name in vars(SweepCallback) if not name.startswith("_") and name != "beside"]:
    setattr(_Relay, _name, _hook(_name))


def relay(pipe: "Connection[Any, Any]") -> SweepCallback:
    """Return a callback that sends every event through ``pipe``, as a list of events."""
    return _Relay(pipe)


def replay(events: list[Event], callback: SweepCallback) -> None:
    """Call the hooks of ``callback`` that the events name, in order."""
    for hook, arguments in events:
        getattr(callback, hook)(*arguments)
