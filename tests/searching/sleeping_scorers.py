"""Scorers for the tests of several workers: they sleep, die or raise. Workers import them from this module."""

import asyncio
import os
import random
import signal
from pathlib import Path

from loop_cases import Overlap

from masksearch.core.problem_and_trials import Score


class Sleeping(Overlap):
    """Sleeps for a random time before it scores; counts the masks that are scored at once."""

    def __init__(self, seconds=0.002):
        super().__init__()
        self.rng, self.longest = random.Random(0), seconds
        self.begun, self.at_once, self.most = [], 0, 0

    async def score(self, proposals):
        self.begun += [proposal.mask.hash for proposal in proposals]
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(self.rng.random() * self.longest)
        self.at_once -= 1
        return super().score(proposals)


class Dying(Overlap):
    """Kills its process at every new mask until ``folder`` has a file for each of some deaths."""

    def __init__(self, folder, deaths):
        super().__init__()
        self.folder, self.deaths = folder, deaths

    def score(self, proposals):
        path = Path(self.folder) / str(proposals[0].mask.hash)
        if len(list(Path(self.folder).iterdir())) < self.deaths and not (self.deaths < 100 and path.exists()):
            path.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().score(proposals)


class Broken(Overlap):
    def score(self, proposals):
        raise ZeroDivisionError("broken at once")


class Noisy(Overlap):
    def score(self, proposals):
        return [Score(random.random()) for _ in proposals]


class Counting(Overlap):
    depends_on_order = True


class DyingAtStart(Overlap):
    """Kills each of the first processes that load it, until ``folder`` has a file for each of some deaths."""

    def __init__(self, folder, deaths):
        super().__init__()
        self.folder, self.deaths = folder, deaths

    def __setstate__(self, state):
        vars(self).update(state)
        if len(list(Path(self.folder).iterdir())) < self.deaths:
            (Path(self.folder) / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)


class Unloadable(Overlap):
    def __reduce__(self):
        return int, ("no number",)
