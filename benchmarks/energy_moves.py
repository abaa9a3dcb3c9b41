"""Annealing of filters on the energy after repair against greedy removal: moves per second, and energies reached.

    python -m benchmarks.energy_moves --data-root data

The network is a ResNet-20 that is trained for a few epochs on 10,000 images of CIFAR-10, or read from ``--weights``.
Energies are sums over layers of relative squared errors; lower is better.
"""

import argparse
import time
from pathlib import Path

import torch

import masksearch as ms
from masksearch.core.energy_protocol import removal_order


def trained(data, weights, epochs):
    model = ms.build_model("resnet20", data, seed=0)
    if weights and Path(weights).exists():
        model.load_state_dict(torch.load(weights))
    else:
        settings = ms.TrainSettings(epochs=epochs, lr=0.1, lr_schedule="cosine", batch_size=128, warmup=0.5)
        ms.train(model, data.train, settings, val=data.val, seed=0, augment=data.augment)
        if weights:
            torch.save(model.state_dict(), weights)
    return model.eval()


def annealed(space, energy, start, amount, moves, seed, exchanges):
    """Return the mask that one round of annealing finds from a start mask."""
    searcher = ms.searchers.EnergyAnnealing(moves=moves, states=1, exchanges=exchanges)
    searcher.start(ms.Problem(space, amount, 1, seed, start, energy=energy))
    searcher.ask()
    return searcher.state.best.mask


def greedy(space, energy, amount, costs=None):
    """Return the mask of greedy removal on the energy, per unit or per MAC that a unit saves."""
    saliency = torch.empty(space.n_units, dtype=torch.float64)
    order = removal_order(energy, space, space.full(), costs)
    saliency[torch.from_numpy(order)] = torch.arange(space.n_units, dtype=torch.float64)
    return space.top_k(saliency, amount)


def timed(function, *arguments):
    begun = time.process_time()
    return function(*arguments), time.process_time() - begun


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--weights", help="file of trained weights, written if it is missing")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--examples", type=int, default=512)
    parser.add_argument("--moves", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.3])
    given = parser.parse_args()
    data = ms.load_data("cifar10", given.data_root, train_examples=10_000, search_examples=1_000)
    model = trained(data, given.weights, given.epochs)
    inputs = data.train.sample(given.examples)[0]
    space = ms.filter_space(model, inputs[:1])
    print(f"ResNet-20, {ms.evaluate(model, data.val).metric:.4f} on validation images", flush=True)
    begun = time.perf_counter()
    energy = ms.repair_energy(model, space, inputs)
    print(f"Gram matrices of {len(inputs)} images: {time.perf_counter() - begun:.1f} s", flush=True)
    print(f"{given.moves:,} moves; seconds are those of the processor, {torch.get_num_threads()} threads")
    print("| share of MACs | widths | units | energy | seconds | moves per second |")
    print("|---:|---|---|---:|---:|---:|")
    macs = space.unit_costs("macs").numpy()
    for share in given.shares:
        uniform = ms.Amount(share, hold="macs", scope="layerwise", on_empty="keep_one")
        free = ms.Amount(share, hold="macs", on_empty="keep_one")

        def show(widths, units, found, moves=0):
            mask, seconds = found
            speed = f"{moves / seconds:,.0f}" if moves else ""
            row = [f"{space.share(mask, 'macs'):.4f}", widths, units, f"{energy(mask):.4f}", f"{seconds:.1f}", speed]
            print(f"| {' | '.join(row)} |", flush=True)
            return mask

        show("uniform", "FPGM", timed(space.top_k, ms.criteria.fpgm(model, space), uniform))
        first = show("uniform", "greedy", timed(greedy, space, energy, uniform))
        starts = [show("greedy", "greedy", timed(greedy, space, energy, free))]
        starts.append(show("greedy per MAC", "greedy", timed(greedy, space, energy, free, macs)))
        best = min(starts, key=energy)
        for seed in range(given.seeds):
            for widths, start, exchanges in (
                ("uniform", first, 0.0),
                ("best greedy", best, 0.0),
                ("exchanged from uniform", first, 0.1),
                ("exchanged from best greedy", best, 0.1),
            ):
                found = timed(annealed, space, energy, start, free, given.moves, seed, exchanges)
                show(widths, "annealed", found, given.moves)


if __name__ == "__main__":
    main()
