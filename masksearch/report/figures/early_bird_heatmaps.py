"""Early-bird masks: heat maps of the distances between the masks of all epochs, and a table of the chosen epochs."""

from collections.abc import Iterator, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from masksearch.analysis import Group
from masksearch.analysis.seed_groups import name_of
from masksearch.experiment.cell_results import EarlyBirdResult
from masksearch.report.figures.drawing import Drawing
from masksearch.report.figures.hover_texts import plot_points, tell_cells
from masksearch.report.figures.style import MATRIX_COLOURS, STYLE, Look
from masksearch.report.tables.table_formats import Grid
from masksearch.utils.number_text import percent

_MAPS = 6
_COLUMNS = ("method", "variant", "sparsity", "seed", "drawn at", "absolute", "relative")
_ABOUT = (
    "Epoch of the dense training after which the mask no longer changes. Absolute: the threshold is a share of all "
    "units; relative: the threshold is a share of the distance of unrelated masks with the same density. Never: the "
    "mask keeps changing, and the ticket is drawn at the end."
)


def early_bird_grid(groups: Sequence[Group]) -> Grid:
    """Return a table, one row per seed, of the epochs at which the early-bird schedule takes its masks."""
    rows = []
    for group in groups:
        for cell in group.cells:
            seen = cell.early_bird
            if seen and group.control == "none":
                epochs = (seen.fired, seen.fires["absolute"], seen.fires["relative"])
                names = (name_of(group.method), group.variant, percent(group.sparsity), str(cell.seed))
                rows.append((*names, *map(_epoch, epochs)))
    return Grid("Early-bird tickets", _COLUMNS, rows, 2, _ABOUT)


def early_bird_drawings(groups: Sequence[Group]) -> Iterator[Drawing]:
    """Yield a heat map of distances between the masks of all epochs, for the first seed (You et al. 2020, figure 3)."""
    maps: dict[str, tuple[Group, np.ndarray, EarlyBirdResult]] = {}
    for group in groups:
        seen = group.cells[0].early_bird
        if seen and group.control == "none":
            # Variants that go on differently have watched the same training.
            distances = np.array(seen.distances, float)
            maps.setdefault(f"{group.method} {group.sparsity} {distances.tobytes()!r}", (group, distances, seen))
    shown = list(maps.values())[:_MAPS]
    if not shown:
        return
    said = "; ".join(
        f"{name_of(group.method)}, {percent(group.sparsity)}: {_epoch(seen.fires['absolute'])} with the threshold "
        f"as a share of all units, {_epoch(seen.fires['relative'])} as a share of the distance of unrelated masks"
        for group, _, seen in shown
    )
    more = f" {len(shown)} of {len(maps)} trainings are shown." if len(maps) > len(shown) else ""
    about = f"Distances between the masks of all epochs of the dense training, seed {shown[0][0].cells[0].seed}."
    yield Drawing("early_bird", f"{about}{more} The detector stops after epoch: {said}.", _figure(shown))


@mpl.rc_context(STYLE)
def _figure(maps: Sequence[tuple[Group, np.ndarray, EarlyBirdResult]]) -> Figure:
    columns = len(maps) if len(maps) < 4 else 2 if len(maps) == 4 else 3
    lines = -(-len(maps) // columns)
    highest = max(100 * np.nanmax(distances, initial=0.0) for _, distances, _ in maps)
    figure = Figure(figsize=(1.2 + 2.8 * columns, 0.3 + 2.9 * lines))
    panels = [figure.add_subplot(lines, columns, number) for number in range(1, len(maps) + 1)]
    for (group, distances, seen), axes in zip(maps, panels, strict=True):
        n, fired = len(distances), seen.fired
        look: Look = {"origin": "lower", "extent": (0.5, n + 0.5, 0.5, n + 0.5), "interpolation": "nearest"}
        image = axes.imshow(100 * distances, cmap=MATRIX_COLOURS, vmin=0, vmax=highest or 1, **look)
        shares = [["–" if np.isnan(value) else round(100 * value, 2) for value in row] for row in distances[::-1]]
        tell_cells(image, [f"epochs {e} and" for e in range(n, 0, -1)], list(map(str, range(1, n + 1))), shares, " %")
        axes.grid(visible=False)
        if fired is not None:
            for line in (axes.axvline, axes.axhline):
                line(fired, color="white", linewidth=1, linestyle="--")
            look = {"marker": "*", "markersize": 13, "color": "#D55E00", "markeredgecolor": "white"}
            plot_points(axes, [fired], [fired], [f"mask taken after epoch {fired}"], **look)
        title = f"{name_of(group.method)}, {percent(group.sparsity)}"
        taken = "at the end" if fired is None else f"after epoch {fired}"
        axes.set_title(f"{title}\nmask taken {taken}", fontsize=9)
        ticks = np.unique(np.linspace(1, n, min(n, 6)).round().astype(int))
        axes.set(xlabel="epoch", ylabel="epoch", xticks=ticks, yticks=ticks)
    figure.colorbar(image, ax=panels, label="distance (% of the units)", shrink=0.8)
    return figure


def _epoch(epoch: int | None) -> str:
    return "never" if epoch is None else str(epoch)
