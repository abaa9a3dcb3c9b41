"""One look for all figures: the same colour for the same method everywhere, told apart by the colour-blind."""

from typing import Any

from masksearch.experiment import methods

__all__ = ["STYLE", "colour", "name_of"]

# Okabe & Ito (2008), without yellow, which is too pale for lines; then darker and lighter siblings.
_PALETTE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#7F3C8D",
    "#8C564B",
    "#4D4D4D",
    "#1B7837",
)

STYLE: Any = {  # matplotlib types its settings one name at a time
    "figure.figsize": (7.5, 4.2),
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: small, searchable
    "svg.hashsalt": "masksearch",  # same figure, same bytes
}


def colour(method: str) -> str:
    """The method's colour, by its place in the tables."""
    known = methods()
    return _PALETTE[known.index(method) % len(_PALETTE)] if method in known else "#222222"


def name_of(method: str) -> str:
    """How a method is written in tables and legends."""
    return method.replace("_", " ")
