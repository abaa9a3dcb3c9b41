"""The run of a sweep's cell: each pruning round finds a mask, applies it, trains the network and evaluates it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from torch import nn

from masksearch.core.density_allocation import Amount
from masksearch.core.history import History
from masksearch.core.mask import Mask
from masksearch.core.problem_and_trials import Trial
from masksearch.experiment.cell_results import Cap, CellResult
from masksearch.experiment.context import CellContext
from masksearch.experiment.result_parts import RoundResult
from masksearch.experiment.steps.early_bird_masks import detector_name, early_bird_moment, early_bird_result
from masksearch.experiment.steps.mask_finder import MaskFinder
from masksearch.experiment.steps.mask_search import MaskResult
from masksearch.experiment.steps.network_costs import ticket_costs
from masksearch.experiment.steps.one_shot_step import pruned_by_block, with_channel_order
from masksearch.experiment.steps.retraining import (
    TrainingPlan,
    mask_schedule,
    reconstructed_weights,
    rewound_weights,
    training_plan,
)
from masksearch.experiment.steps.round_evaluation import round_result
from masksearch.experiment.store.run_folder import CHECKPOINTS, RunFolder, remove_checkpoints
from masksearch.experiment.store.run_hosts import record_place
from masksearch.experiment.sweep_callback import SweepCallback
from masksearch.experiment.tensorboard import SearchCurves, Tracker
from masksearch.pruning.orthogonalisation import repaired
from masksearch.pruning.physical import Removable, save_pruned
from masksearch.pruning.ticket import Ticket, draw_ticket
from masksearch.schedules.dynamic_sparse_training import Regrowing
from masksearch.schedules.gradual_pruning import Gradual
from masksearch.schedules.rounds import PruningRounds, Round, RoundStart
from masksearch.searchers import Searcher
from masksearch.searching.subspace import Subspace
from masksearch.training import EpochRow, Training, optimizer_steps, train
from masksearch.training.own_loop import train_by_function
from masksearch.training.record import Weights
from masksearch.training.training_moment import TrainingMoment
from masksearch.utils.files import save_tensors
from masksearch.utils.seeds import derive, torch_generator
from masksearch.utils.user_functions import import_function


def run_cell(context: CellContext, path: Path, callback: SweepCallback) -> CellResult:
    """Execute or continue one run of a sweep (method, sparsity and seed) in a folder under ``path``; return its result.

    Every step begins from what the step before left on disk, so that an interrupted cell ends with the same files.
    """
    cell = context.cell
    folder = RunFolder(path / cell.folder, cell.identity, cell.deciding_settings())
    if folder.is_done:
        return CellResult.load(folder.path)
    record_place(folder.path)
    callback.cell_begins(cell)
    with ExitStack() as trackers:
        result = _CellRun(context, folder, callback, trackers).result()
    result.save(folder.path)
    folder.set_status("done")
    remove_checkpoints(folder.path, *CHECKPOINTS)
    callback.cell_ends(cell, result)
    return result


class _CellRun:
    """The rounds of one cell."""

    def __init__(self, context: CellContext, folder: RunFolder, callback: SweepCallback, trackers: ExitStack) -> None:
        self.context, self.folder, self.callback = context, folder, callback
        self.cell, self.space, self.data = context.cell, context.space, context.data
        self._exit, self._trackers = trackers, dict[Path, Tracker]()
        self.found_at = self.cell.find_at
        if self.cell.row.detects:
            self.early_bird_masks = context.dense.early_bird_masks[detector_name(self.cell)]
            self.found_at = early_bird_moment(self.cell, self.early_bird_masks)
        if context.settings.scoring.channel_swaps:
            self.context = with_channel_order(context, self.found_at)

    def result(self) -> CellResult:
        """Run all pruning rounds of a method, sparsity and seed; return their results and the final network's costs."""
        cell, context, settings = self.cell, self.context, self.context.settings
        results: list[RoundResult] = []
        for round_ in self._rounds():
            network = self._save(round_)
            results.append(round_result(context, round_))
        cost, layers, latency = ticket_costs(context, network, round_.mask)
        if isinstance(self.space, Removable) and not round_.mask.empty_layers():
            save_pruned(self.folder / "pruned", network, self.space, round_.mask)
        capped = settings.sweep.capped
        result = CellResult(
            method=cell.method,
            learned=cell.learns,
            granularity=settings.sweep.granularity,
            sparsity=cell.sparsity,
            find_at=self.found_at,
            seed=cell.seed,
            schedule=cell.schedule,
            n_rounds=cell.rounds,
            rewind_to=cell.rewind_to,
            retrain_lr=cell.retrain_lr,
            control=cell.control,
            rounds=results,
            cost=cost,
            layers=layers,
            latency=latency,
            dense=context.dense_result().without_epochs,
            cap=Cap(capped, cell.density) if capped else None,
            front=round_.found.front,
            early_bird=early_bird_result(cell, self.early_bird_masks) if cell.row.detects else None,
            settings=cell.deciding_settings(),
            identity=cell.identity,
        )
        self._tracker(self.folder.path).result(result, cell.retrain_lr or settings.train.lr)
        return result

    def _rounds(self) -> Iterator[Round[MaskResult]]:
        """Find a mask, prune and train in each round; yield each round when it is finished."""
        amounts = self.cell.amounts(self.space)
        rounds = PruningRounds(
            self.context.build,
            self.space,
            amounts if self.cell.control == "none" else amounts[-1:],
            self.context.dense.weights[self.found_at],
            physically=self.cell.row.changes is None,
        )
        for start in rounds:
            found = self._find(start)
            rewound = self._rewind(start, found)
            ticket = rounds.ticket(start, found.mask, rewound)
            training, mask = self._train(start.number, ticket, found.mask)
            yield rounds.finish(start, found, rewound, ticket, mask, training)

    def _round_folder(self, number: int) -> Path:
        """The folder of a round: the last round's files lie in the cell's own folder."""
        last = self.cell.rounds if self.cell.control == "none" else 1
        return self.folder.path if number == last else self.folder / f"round{number}"

    def _tracker(self, folder: Path) -> Tracker:
        """The curves of a round: one file for its search and its training, since opening a file empties it."""
        if folder not in self._trackers:
            self._trackers[folder] = tracker = Tracker(folder, self.data.task.metric_name)
            self._exit.callback(tracker.close)
        return self._trackers[folder]

    # Find: a control takes its cell's mask; a ramp begins with all units; all others are found by the method.

    def _find(self, start: RoundStart[Amount]) -> MaskResult:
        cell = self.cell
        self.folder.set_status("search")
        if cell.control != "none":
            found = MaskResult(self._controlled_mask())
        elif cell.row.changes == "ramp":
            found = MaskResult(self.space.full())
        else:
            found = self._found_by_method(start)
        found.mask.save(self._round_folder(start.number) / "mask.safetensors")
        return found

    def _found_by_method(self, start: RoundStart[Amount]) -> MaskResult:
        cell, folder = self.cell, self._round_folder(start.number)
        tracker = self._tracker(folder)
        curves = SearchCurves(tracker, self.context.settings.sweep.budget)

        def on_trial(trial: Trial, history: History, searcher: Searcher) -> None:
            curves.add(trial)
            self.callback.trial(cell, trial)

        find = MaskFinder(self.context, on_trial, self.callback, cell.trained_before(start.number))
        found = find(start.model, start.density, start.alive, folder)
        if self.context.settings.schedules.reconstruct == "blockwise":
            mask, weights = pruned_by_block(self.context, start.model, found.mask)
            found = replace(found, mask=mask, weights=weights)
        if cell.searches and not cell.front:  # Pareto searches have no current mask to plot
            tracker.search(self.space if start.alive is None else Subspace(start.alive))
        tracker.mask(found.mask, found.scorings)
        return found

    def _controlled_mask(self) -> Mask:
        """The mask of the cell that this cell controls; for ``shuffle``, permuted within every layer."""
        mask = Mask.load(self.folder.path.parent / self.cell.treated.folder / "mask.safetensors", self.space)
        if self.cell.control != "shuffle":
            return mask
        return mask.shuffled(torch_generator(self.cell.seed, "control", "shuffle"))

    # Train: from the rewound weights, for the epochs that the schedule says, with masks that stay or change.

    def _rewind(self, start: RoundStart[Amount], found: MaskResult) -> Weights:
        if found.weights is not None:
            return found.weights
        rewound = rewound_weights(self.context, start.weights)
        if self.cell.settings.schedules.reconstruct != "off" and self.cell.control in ("none", "shuffle"):
            return reconstructed_weights(self.context, found.mask, rewound)
        if self.cell.control != "repair":
            return rewound
        return repaired(rewound, self.space.parameter_masks(self._controlled_mask()))

    def _train(self, number: int, ticket: Ticket, mask: Mask) -> tuple[Training | None, Mask]:
        cell, folder = self.cell, self._round_folder(number)
        epochs = cell.epochs_after(number) if cell.control == "none" else cell.epochs
        plan = training_plan(self.context, "end" if cell.trained_before(number) else self.found_at, epochs)
        if not plan.epochs and folder != self.folder.path:
            return None, mask
        self.folder.set_status("retrain")
        function = self.context.settings.sweep.train_fn
        self.callback.retraining_begins(cell, plan.epochs if function is None else 1)  # one row for the whole training
        tracker = self._tracker(folder)

        def on_epoch(row: EpochRow) -> None:
            tracker.epoch(row)
            self.callback.epoch(row)

        if function is not None:
            return self._train_by_function(function, ticket, plan.epochs, on_epoch), mask
        training, schedule = self._train_by_plan(plan, ticket, mask, folder, on_epoch)
        if schedule:
            mask = schedule.mask
            mask.save(folder / "mask.safetensors")
            tracker.mask(mask, plan.until)
        for moment, weights in training.snapshots.items():
            save_tensors(folder / f"retrained_{str(moment).replace(':', '_')}.safetensors", weights)
        return training, mask

    def _train_by_function(
        self, name: str, ticket: Ticket, epochs: int, on_epoch: Callable[[EpochRow], None]
    ) -> Training:
        training = train_by_function(
            import_function(name, "train_fn"),
            ticket.network,
            self.data,
            masks=ticket.masks,
            epochs=epochs,
            seed=derive(self.cell.seed, "retrain"),
            device=self.context.device,
        )
        for row in training.epochs:
            on_epoch(row)
        return training

    def _train_by_plan(
        self, plan: TrainingPlan, ticket: Ticket, mask: Mask, folder: Path, on_epoch: Callable[[EpochRow], None]
    ) -> tuple[Training, Gradual | Regrowing | None]:
        """Train a ticket; return the training, and the rule that changed the mask, if the cell has one."""
        cell = self.cell
        per_epoch = optimizer_steps(self.data.train, plan.settings)
        begin, until = plan.begin * per_epoch, plan.until * per_epoch
        moments = map(TrainingMoment.parse, self.context.settings.schedules.save_at)
        schedule = None
        if cell.row.changes and cell.control == "none":
            ticket.network.to(self.context.device)
            schedule = mask_schedule(self.context, ticket.network, mask, begin, until)
        training = train(
            ticket.network,
            self.data.train,
            plan.settings,
            val=self.data.val,
            masks=None if schedule else ticket.masks,
            remask=schedule,
            teacher=self.context.teacher(),
            begin=plan.begin,
            until=plan.until,
            seed=derive(cell.seed, "retrain"),  # the same for every method: same batches, in the same order
            device=self.context.device,
            augment=self.data.augment,
            snapshots=[moment for moment in moments if begin < moment.steps(per_epoch, plan.until) <= until],
            checkpoint=folder / "retraining.safetensors",
            on_epoch=on_epoch,
        )
        return training, schedule

    # Save: the trained network, smaller where filters were removed.

    def _save(self, round_: Round[MaskResult]) -> nn.Module:
        """Write the trained network of a round, and return it."""
        network = round_.ticket.network
        if self.cell.row.changes:  # trained whole; only the last mask says what remains of it
            ticket = draw_ticket(self.context.build(), self.space, round_.mask, round_.trained)
            network = ticket.network.to(self.context.device)
        save_tensors(self._round_folder(round_.number) / "retrained.safetensors", network.state_dict())
        return network
