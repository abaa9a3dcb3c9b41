"""One cell: round by round, find the mask, draw the ticket, train it; look at it at every moment that is published."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import nn

from masksearch.core.history import History
from masksearch.core.mask import Mask
from masksearch.core.protocol import FOREIGN_TRIALS, Trial
from masksearch.core.space import Density
from masksearch.data import Data
from masksearch.experiment.cell import Cell
from masksearch.experiment.events import SweepCallback
from masksearch.experiment.steps.dense import DenseNetwork, track_epoch
from masksearch.experiment.steps.early_bird_detector import Watch
from masksearch.experiment.steps.mask_finder import MaskFinder, MaskResult
from masksearch.experiment.steps.retraining import TrainingPlan, course, mask_schedule, rewound_weights
from masksearch.experiment.steps.round_evaluation import PRICES, RoundEvaluator
from masksearch.experiment.store.run_folder import RunFolder
from masksearch.experiment.tensorboard import SearchCurves, Tracker, compare_by, show_mask, show_search
from masksearch.models import build_model
from masksearch.pruning.orthogonal_repair import repaired
from masksearch.pruning.physical import save_pruned
from masksearch.pruning.ticket import Ticket, draw_ticket
from masksearch.schedules import mask_distances
from masksearch.schedules.rounds import Round, run_rounds
from masksearch.searchers import Searcher
from masksearch.searching.subspace import Subspace
from masksearch.spaces import FilterSpace, NetworkSpace
from masksearch.training import EpochRow, Training, steps_per_epoch, train
from masksearch.training.duration import Duration
from masksearch.training.record import Weights
from masksearch.utils.files import read_json, save_tensors, write_json
from masksearch.utils.seeds import derive, torch_generator

__all__ = ["run_cell"]


def run_cell(
    cell: Cell,
    data: Data,
    space: NetworkSpace,
    dense: DenseNetwork,
    path: Path,
    device: torch.device,
    callback: SweepCallback,
) -> dict[str, Any]:
    """Run a cell, or what is left of it, in its folder under ``path``; return its metrics.

    Every stage begins from what the one before left on disk, so that a cell that was killed ends with the same files.
    """
    folder = RunFolder(path / cell.folder, cell.identity)
    if folder.is_done:
        return read_json(folder / "metrics.json")
    callback.cell_begins(cell)
    with ExitStack() as trackers:
        metrics = _Run(cell, data, space, dense, folder, device, callback, trackers).metrics()
    write_json(folder / "metrics.json", metrics)
    folder.enter("done")
    for checkpoint in [*folder.path.rglob("retraining.safetensors"), *folder.path.rglob("supermask.safetensors")]:
        checkpoint.unlink()
    callback.cell_ends(cell, metrics)
    return metrics


class _Run:
    """What the rounds of a cell have in common."""

    def __init__(
        self,
        cell: Cell,
        data: Data,
        space: NetworkSpace,
        dense: DenseNetwork,
        folder: RunFolder,
        device: torch.device,
        callback: SweepCallback,
        trackers: ExitStack,
    ) -> None:
        self._opened, self._trackers = trackers, dict[Path, Tracker]()
        self.cell, self.data, self.space, self.dense = cell, data, space, dense
        self.folder, self.device, self.callback = folder, device, callback
        self.watch: Watch | None = None
        self.found_at = cell.find_at
        if cell.row.detects:
            self.watch = dense.watches[Watch.name_of(cell)]
            self.found_at = self.watch.moment
        self.found = MaskResult(space.full())

    def metrics(self) -> dict[str, Any]:
        """Run all rounds and tell what they have shown: the last one's figures with all's effort, then every one's."""
        cell = self.cell
        rounds = [self._look(round_) for round_ in self._rounds()]
        last = rounds[-1]
        metrics = {
            "method": cell.method,
            "learned": cell.learns,
            "granularity": cell.settings.sweep.granularity,
            "sparsity": cell.sparsity,
            "find_at": self.found_at,
            "seed": cell.seed,
            "schedule": cell.schedule,
            "n_rounds": cell.rounds,
            "rewind_to": cell.rewind_to,
            "retrain_lr": cell.retrain_lr,
            "control": cell.control,
            **{name: value for name, value in last.items() if name not in ("number", "latency")},
            "score": last["score"] | _total(rounds, "score", "scorings", FOREIGN_TRIALS),
            "seconds": last["seconds"] | _total(rounds, "seconds", "search", "retrain") | last["latency"],
            "dense": {name: value for name, value in self.dense.metrics.items() if name != "epochs"},
            "rounds": [{name: value for name, value in row.items() if name not in PRICES} for row in rounds],
        }
        if cell.settings.sweep.capped:
            metrics["cap"] = {"cost": cell.settings.sweep.capped, "share": cell.density}
        if self.found.front is not None:
            metrics["front"] = self.found.front
        if self.watch is not None:
            rule = cell.settings.schedules.early_bird(cell.settings.schedules.early_bird_relative)
            metrics["early_bird"] = {
                "threshold": rule.threshold,
                "relative": rule.relative,
                "fired": self.watch.fired,
                "fires": {"absolute": self.watch.fires(False), "relative": self.watch.fires(True)},
                "distances": mask_distances(self.watch.masks).tolist(),
            }
        compare_by(self._tracker(self.folder.path), cell, metrics)
        return metrics

    def _rounds(self) -> Iterator[Round]:
        cell = self.cell
        densities = cell.densities(self.space) if cell.control == "none" else [self._controlled_mask().density]
        return run_rounds(
            self._build,
            self.space,
            densities,
            self.dense.weights[self.found_at],
            find=self._find,
            rewind=self._rewind,
            train=self._train,
            physically=cell.row.changes is None,
        )

    def _build(self) -> nn.Module:
        return build_model(self.cell.settings.sweep.model, self.data, seed=self.cell.seed)

    def _place(self, number: int) -> Path:
        """The folder of a round: the last one's files lie in the cell's own."""
        last = self.cell.rounds if self.cell.control == "none" else 1
        return self.folder.path if number == last else self.folder / f"round{number}"

    def _tracker(self, place: Path) -> Tracker:
        """The curves of a round: one file for all its stages, since opening it anew begins them anew."""
        if place not in self._trackers:
            self._trackers[place] = tracker = Tracker(place)
            self._opened.callback(tracker.close)
        return self._trackers[place]

    def _find(self, number: int, model: nn.Module, density: Density, alive: Mask | None) -> Mask:
        cell, place = self.cell, self._place(number)
        self.folder.enter("search")
        if cell.control != "none" or cell.row.changes == "ramp":
            # Its mask is found elsewhere, or within the training; there is nothing to score beforehand.
            self.found = MaskResult(self._controlled_mask() if cell.control != "none" else self.space.full())
        else:
            curves = SearchCurves(self._tracker(place), cell.settings.sweep.budget)

            def on_trial(trial: Trial, history: History, searcher: Searcher) -> None:
                curves.add(trial)
                self.callback.trial(cell, trial)

            later = cell.trained_before(number)
            find = MaskFinder(cell, self.space, self.data, self.dense, self.device, on_trial, self.callback, later)
            self.found = find(model, density, alive, place)
            if cell.searches and not cell.front:  # the searches of fronts stand on no mask
                left = None if alive is None else Subspace(alive)
                show_search(self._tracker(place), place, left or self.space, left.lifted if left else None)
            show_mask(self._tracker(place), self.found.mask, self.found.scorings)
        self.found.mask.save(place / "mask.safetensors")
        return self.found.mask

    def _controlled_mask(self) -> Mask:
        """The mask of the cell that this one is a control of, permuted within its layers if that is the control."""
        mask = Mask.load(self.folder.path.parent / self.cell.treated.folder / "mask.safetensors", self.space)
        if self.cell.control != "shuffle":
            return mask
        generator = torch_generator(self.cell.seed, "control", "shuffle")
        bits = mask.bits.clone()
        for layer in self.space.layers:
            bits[layer.slice] = bits[layer.slice][torch.randperm(layer.size, generator=generator)]
        return Mask(self.space, bits)

    def _rewind(self, number: int, weights: Weights) -> Weights:
        rewound = rewound_weights(self.cell, weights, self.data, self.dense)
        if self.cell.control != "repair":
            return rewound
        return repaired(rewound, self.space.parameter_masks(self._controlled_mask()))

    def _course(self, number: int) -> TrainingPlan:
        cell = self.cell
        epochs = cell.epochs_after(number) if cell.control == "none" else cell.epochs
        found_at = "end" if cell.trained_before(number) else self.found_at
        return course(cell, found_at, epochs, self.dense, len(self.data.train))

    def _train(self, number: int, ticket: Ticket, mask: Mask) -> tuple[Training | None, Mask]:
        cell, place, plan = self.cell, self._place(number), self._course(number)
        if not plan.epochs and place != self.folder.path:
            return None, mask
        self.folder.enter("retrain")
        self.callback.retraining_begins(cell, plan.epochs)
        tracker = self._tracker(place)

        def on_epoch(row: EpochRow) -> None:
            track_epoch(tracker, row)
            self.callback.epoch(row)

        per_epoch = steps_per_epoch(len(self.data.train), plan.settings.batch_size)
        remask = None
        if cell.row.changes and cell.control == "none":
            ticket.network.to(self.device)
            remask = mask_schedule(
                cell,
                ticket.network,
                self.space,
                mask,
                self.data,
                self.dense.weights["0"],
                self.device,
                plan.begin * per_epoch,
                plan.until * per_epoch,
            )
        training = train(
            ticket.network,
            self.data.train,
            plan.settings,
            val=self.data.val,
            masks=None if remask else ticket.masks,
            remask=remask,
            begin=plan.begin,
            until=plan.until,
            seed=derive(cell.seed, "retrain"),  # the same for every method: same batches, in the same order
            device=self.device,
            augment=self.data.augment,
            snapshots=self._snapshots(plan, per_epoch),
            checkpoint=place / "retraining.safetensors",
            on_epoch=on_epoch,
        )
        if remask:
            mask = remask.mask
            mask.save(place / "mask.safetensors")
            show_mask(tracker, mask, plan.until)
        for moment, weights in training.snapshots.items():
            save_tensors(place / f"retrained_{str(moment).replace(':', '_')}.safetensors", weights)
        return training, mask

    def _snapshots(self, plan: TrainingPlan, per_epoch: int) -> list[Duration]:
        """Those moments to save weights at that lie within this training."""
        moments = [Duration.parse(text) for text in self.cell.settings.schedules.save_at]
        return [m for m in moments if plan.begin * per_epoch < m.steps(per_epoch, plan.until) <= plan.until * per_epoch]

    def _look(self, round_: Round) -> dict[str, Any]:
        """Write down a round: its files, and its mask at every moment that is published."""
        place, space = self._place(round_.number), self.space
        network = round_.ticket.network
        if self.cell.row.changes:  # it was trained whole; what is left of it is known only now
            network = draw_ticket(self._build(), space, round_.mask, round_.trained).network.to(self.device)
        save_tensors(place / "retrained.safetensors", network.state_dict())
        looker = RoundEvaluator(self.cell, self._build, space, self.data, self.dense, self.device)
        row = looker.row(round_, self.found)
        if place == self.folder.path:
            row |= looker.costs(network, round_)
            if isinstance(space, FilterSpace) and not round_.mask.empty_layers():
                save_pruned(place / "pruned", network, space, round_.mask)
        return row


def _total(rounds: list[dict[str, Any]], group: str, *names: str) -> dict[str, Any]:
    """Sums over the rounds of what the last one's ``group`` has of these names."""
    return {name: sum(row[group].get(name, 0) for row in rounds) for name in names if name in rounds[-1][group]}
