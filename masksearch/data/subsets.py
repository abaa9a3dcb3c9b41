"""Which validation images a search sees when: the same ones throughout, more and more, or others in every stage."""

from dataclasses import dataclass
from typing import Literal, get_args

from masksearch.data.data import Data
from masksearch.data.split import Split
from masksearch.errors import InputError
from masksearch.table import choose

__all__ = ["SubsetKind", "Subsets", "search_subsets"]

SubsetKind = Literal["fixed", "growing", "redrawn"]


@dataclass(frozen=True, eq=False)
class Subsets:
    """The images of a search, stage by stage, and those that no stage sees."""

    stages: tuple[Split, ...]  # the last one is ``data.search``
    rest: Split


def search_subsets(data: Data, kind: SubsetKind, stages: int = 4) -> Subsets:
    """The search images in stages, each with every class in its proportion. The last stage always is ``data.search``.

    A search that sees the same images for thousands of scorings overfits them. Two remedies: ``growing`` subsets, each
    a part of the next and half as large (progressive sampling: Provost et al. 1999), so that the many early scorings
    are cheap and the last ones see all; ``redrawn`` subsets, all of the same size and without a common image (random
    sampling: Gonçalves et al. 2012).

    Parameters
    ----------
    kind : {"fixed", "growing", "redrawn"}
        ``fixed`` is ``data.search`` in one stage. Redrawn images are taken from ``data.rest``, of which at least as
        many as there are search images must be left: they are the ``rest`` of what is returned.
    stages : int
        How many subsets; of no meaning for ``fixed``.

    Raises
    ------
    InputError
        If there are too few images, or fewer than 2 stages.
    """
    choose("subsets", kind, list(get_args(SubsetKind)))
    if kind == "fixed":
        return Subsets((data.search,), data.rest)
    if stages < 2:
        raise InputError(f"subset_stages: {stages}; {kind} subsets need at least 2")
    # Val is in an order every stretch of which has each class in its proportion, and begins with the search images.
    n, n_val = data.search_images, len(data.val)
    if kind == "redrawn":
        if (stages + 1) * n > n_val:
            raise InputError(
                f"subsets: redrawn {stages} times, {n} images each, and as many for the rest; val has {n_val}, so "
                f"search_images may be {n_val // (stages + 1)} at most"
            )
        return Subsets(tuple(data.val[i * n : (i + 1) * n] for i in reversed(range(stages))), data.val[stages * n :])
    if n >> (stages - 1) < data.classes:
        raise InputError(
            f"subsets: growing, the first of {stages} stages would have {n >> (stages - 1)} of {n} search images; "
            f"at least {data.classes} are needed, one a class"
        )
    return Subsets(tuple(data.search[: n >> i] for i in reversed(range(stages))), data.rest)
