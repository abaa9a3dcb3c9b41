"""Write a searcher, and compare it with annealing and random search at equal scorings."""

from dataclasses import dataclass

import torch

import masksearch as ms
from masksearch.searchers import Annealing, RandomSearch, Searcher


@dataclass
class State:  # saved with the search, so that it can resume
    values: torch.Tensor  # one per unit; the mask keeps the highest
    best: float = -float("inf")


class Climb(Searcher):
    """Change all values a little at random; a change stays if the score does not fall."""

    def reset(self) -> None:
        start = self.problem.start or self.problem.random_mask(self.generator)
        self.state = State(start.bits.float())

    def ask(self, n: int = 1) -> list[ms.Proposal]:
        noise = torch.randn(n, self.problem.space.n_units, generator=self.generator)
        step = 0.0 if self.state.best == -float("inf") else 0.15  # the first proposal is the start itself
        self.tried = self.state.values + step * noise
        return [ms.Proposal.of(self.problem.top_k(values)) for values in self.tried]

    def tell(self, proposals: list[ms.Proposal], scores: list[ms.Score]) -> None:
        for values, score in zip(self.tried, scores, strict=True):
            if score.value >= self.state.best:
                self.state = State(values, score.value)


def main(epochs: int = 5, budget: int = 300) -> dict[str, float]:
    data = ms.load_data("digits")
    model = ms.build_model("lenet_300_100", data, seed=0)
    ms.train(model, data.train, ms.TrainSettings(epochs=epochs))
    space, found = ms.weight_space(model), {}
    scorer = ms.Scorer(model, space, data.search, objective="loss")
    start = space.top_k(ms.criteria.magnitude(model, space), density=0.1)
    print(f"magnitude     {scorer(start).value:.4f}")
    for searcher in (Climb(), Annealing(), RandomSearch()):
        history = ms.search(space, searcher, scorer, density=0.1, budget=budget, start=start, seed=0)
        found[type(searcher).__name__] = history.best.score.value
        print(f"{type(searcher).__name__:<13} {history.best.score.value:.4f}")
    return found


if __name__ == "__main__":
    main()
