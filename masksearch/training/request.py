"""The request of a training: its checks before any work, and its identity in a checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from masksearch.training.checkpoint import NO_EXAMPLES, digest, examples_digest
from masksearch.training.data_parallel import check_sync_batchnorm
from masksearch.training.input_check import Loss
from masksearch.training.masking import MaskSchedule
from masksearch.training.train_settings import TrainSettings
from masksearch.training.training_moment import TrainingMoment
from masksearch.training.training_splits import Examples, Resident, Streamed, as_examples
from masksearch.utils.errors import InputError, check_type, check_whole
from masksearch.utils.nested import describe
from masksearch.utils.ranks import ranks
from masksearch.utils.seeds import check_seed


@dataclass(frozen=True)
class TrainingRequest:
    """Arguments of one call of :func:`masksearch.training.train`, which documents them; the network is not included."""

    split: Examples
    settings: TrainSettings
    val: Examples | None
    masks: Mapping[str, Tensor] | None
    remask: MaskSchedule | None
    begin: int
    until: int
    seed: int
    device: torch.device
    augment: bool
    teacher: nn.Module | None
    loss: Loss | None
    snapshots: Sequence[TrainingMoment]

    @cached_property
    def examples(self) -> Resident | Streamed:
        """Training examples of the call of ``train``, as a data split that has a task."""
        return as_examples(self.split, "train")

    @property
    def cropped(self) -> bool:
        """Whether the training images are cropped and flipped at random."""
        return self.augment if self.settings.augment == "auto" else self.settings.augment == "crop_flip"

    def check(self) -> None:
        """Raise an InputError for training arguments that do not fit together, such as distill without a teacher."""
        check_whole("begin", self.begin)
        check_seed(self.seed)
        check_whole("until", self.until)
        if self.masks is not None:
            check_type("masks", self.masks, Mapping, "{name of a parameter: bool tensor}")
        settings, task = self.settings, self.examples.task
        if not 0 <= self.begin <= self.until:
            raise InputError(f"begin: {self.begin}; allowed is 0 to {self.until}, the epoch at which the training ends")
        if self.remask is not None and self.masks is not None:
            raise InputError("masks: given beside remask, which has its own masks; leave masks out")
        if settings.lr_schedule == "plateau" and self.val is None:
            raise InputError("lr_schedule: plateau needs the validation loss; pass val, or another schedule")
        if settings.label_smoothing and self.loss is not None:
            raise InputError(f"label_smoothing: {settings.label_smoothing}; it must be 0 with a loss of your own")
        if settings.label_smoothing and task.smoothed is None:
            raise InputError(f"label_smoothing: {settings.label_smoothing}; it must be 0 for task {task.name!r}")
        if settings.stop_after is not None and self.val is None:
            raise InputError(f"stop_after: {settings.stop_after}; early stopping needs validation examples; pass val")
        if settings.distill and self.teacher is None:
            raise InputError(
                f"distill: {settings.distill}; it needs the dense network; pass teacher, or set distill to 0"
            )
        check_sync_batchnorm(settings, self.device)
        if settings.precision == "float16" and self.device.type not in ("cpu", "cuda"):
            raise InputError(f"precision: float16; it is for CPU and CUDA, not for {self.device.type}; choose float32")

    def check_crops(self) -> None:
        """Raise an InputError if random crops are switched on and the training inputs are not images."""
        if not self.cropped:
            return
        inputs = self.examples.sample(1)[0]
        if not (isinstance(inputs, Tensor) and inputs.ndim == 4 and inputs.is_floating_point()):
            raise InputError(f"augment: crop_flip needs images (n, c, h, w), not {describe(inputs)}; set none")

    def identity(self, model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, object]:
        """Return a dict of all that decides a training's result: settings, seed, hashes of data, masks and weights."""
        return asdict(self.settings) | {
            "seed": self.seed,
            "augment": self.cropped,
            "images": len(self.examples),
            "task": self.examples.task.identity,
            "data": self.examples.identity,
            "content": examples_digest(self.split),
            "val": NO_EXAMPLES if self.val is None else examples_digest(self.val),
            "teacher": None if self.teacher is None else digest(self.teacher.state_dict()),
            "snapshots": sorted(map(str, self.snapshots)),
            "begin": self.begin,
            "until": self.until,
            "masks": digest(masks),
            "devices": ranks().size,
            "remask": None if self.remask is None else type(self.remask).__name__,
            "starting weights": digest(model.state_dict()),
        }
