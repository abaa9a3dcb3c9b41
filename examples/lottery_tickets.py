"""Lottery tickets: four rounds of magnitude pruning, each rewound to the initial weights, beside one round."""

import torch

import masksearch as ms
from masksearch.pruning import Ticket


def main(epochs: int = 10, rounds: int = 4, density: float = 0.02) -> dict[int, float]:
    data = ms.load_data("digits")
    settings = ms.TrainSettings(epochs=epochs)

    def build() -> torch.nn.Module:
        return ms.build_model("lenet_300_100", data, seed=0)

    initial, space = build().state_dict(), ms.weight_space(build())
    dense = build()
    ms.train(dense, data.train, settings)
    print(f"dense: {ms.evaluate(dense, data.test).accuracy:.2%}")

    def find(number: int, model: torch.nn.Module, amount: ms.Amount, alive: ms.Mask | None) -> ms.Mask:
        trained = dense if number == 1 else model  # model: the network after the last round's training
        return ms.criteria.select("magnitude", trained, space, density=amount, alive=alive)

    def train(number: int, ticket: Ticket, mask: ms.Mask) -> tuple[object, ms.Mask]:
        return ms.train(ticket.network, data.train, settings, masks=ticket.masks), mask

    found = {}
    for n in (1, rounds):
        densities = ms.schedules.round_densities(density, rounds=n)
        functions = {"find": find, "rewind": lambda number, last: initial, "train": train}
        for result in ms.run_rounds(build, space, densities, initial, **functions):
            found[n] = ms.evaluate(result.ticket.network, data.test).accuracy
            print(f"{n} rounds, round {result.number}: {found[n]:.2%} with {result.mask.density:.1%} of the weights")
    return found


if __name__ == "__main__":
    main()
