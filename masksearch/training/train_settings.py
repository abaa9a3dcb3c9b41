"""Settings of a training, checked at construction."""

from dataclasses import dataclass
from typing import Literal, get_args

from masksearch.utils.errors import check_numbers, require
from masksearch.utils.registry import choose

Optimizer = Literal["sgd", "adam", "adamw", "adadelta"]
LrSchedule = Literal["constant", "multistep", "plateau", "cosine"]
Precision = Literal["float32", "bfloat16", "float16"]
Augment = Literal["auto", "none", "crop_flip"]


@dataclass(frozen=True)
class TrainSettings:
    """Settings of a training: epochs, optimiser, learning rates, precision, augmentation and regularisation."""

    epochs: int = 10
    """Number of passes over the training examples; 0 trains nothing."""
    batch_size: int = 64
    """Number of examples per batch; the last batch of an epoch may be smaller."""
    optimizer: Optimizer = "sgd"
    """Optimiser: sgd, adam, adamw or adadelta; the last three have PyTorch's default coefficients."""
    lr: float = 0.05
    """Learning rate at the start; with adadelta, usually 1."""
    momentum: float = 0.9
    """Momentum of optimizer = "sgd"; other optimisers ignore it."""
    nesterov: bool = False
    """Use Nesterov's momentum; only optimizer = "sgd" has it."""
    weight_decay: float = 1e-4
    """Coefficient of the L2 penalty on every parameter; with optimizer = "adamw", decoupled weight decay."""
    bn_l1: float = 0.0
    """Coefficient of an L1 penalty on BatchNorm scales (network slimming, Liu et al. 2017: 1e-4 VGG, 1e-5 ResNet)."""
    lr_schedule: LrSchedule = "constant"
    """Change of the learning rate over the epochs: constant, multistep, plateau or cosine."""
    milestones: tuple[int, ...] = ()
    """Epochs, ascending, after which lr_schedule = "multistep" multiplies the learning rate by factor."""
    factor: float = 0.1
    """Factor by which lr_schedule = "multistep" or "plateau" multiplies the learning rate."""
    patience: int = 10
    """Epochs without a lower validation loss that lr_schedule = "plateau" allows before it lowers the learning rate."""
    label_smoothing: float = 0.0
    """Share of each target that label smoothing spreads evenly over all classes, in the training loss."""
    precision: Precision = "float32"
    """Number format of the training's forward passes: float32, bfloat16, or float16 with loss scaling.
    Weights are float32 in all cases."""
    augment: Augment = "auto"
    """Augmentation of training images: crop_flip, none, or auto (what is usual for the data set).
    crop_flip crops randomly with 4 pixels of padding, and flips horizontally."""
    warmup: float = 0.0
    """Number of first epochs in which the learning rate grows linearly from 0, step by step; 0: no warm-up."""
    clip_norm: float | None = None
    """Maximum norm of the gradient of all parameters together; longer gradients are scaled down. None: no limit."""
    accumulate: int = 1
    """Number of batches per optimiser step, which uses the gradient of the mean loss over all their examples."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights, which validation and results use; 0: no average."""
    stop_after: int | None = None
    """Epochs without a better validation metric after which the training ends; None: it is never ended early."""
    no_decay: bool = False
    """Apply no weight decay to biases, normalisation layers and other parameters with fewer than two dimensions."""
    distill: float = 0.0
    """Weight, in [0, 1], of distillation in the training loss: the distance to the dense network's outputs; 0: none."""
    distill_temperature: float = 4.0
    """Temperature that divides the logits of teacher and student in distillation; tasks without classes ignore it."""
    sync_batchnorm: bool = False
    """Take BatchNorm statistics over the examples of all processes, not of each alone; needs torchrun and CUDA.
    Other normalisation layers need no such setting."""

    def __post_init__(self) -> None:
        for name, kind in (
            ("optimizer", Optimizer),
            ("lr_schedule", LrSchedule),
            ("precision", Precision),
            ("augment", Augment),
        ):
            choose(name, getattr(self, name), list(get_args(kind)))
        if isinstance(self.milestones, list):
            object.__setattr__(self, "milestones", tuple(self.milestones))
        check_numbers(self, epochs=1_000_000, lr=1e38, accumulate=1_000_000, warmup=1e6)
        require("epochs", self.epochs, self.epochs >= 0, "0 or more")
        require("batch_size", self.batch_size, self.batch_size >= 1, "1 or more")
        require("lr", self.lr, 0 < self.lr < float("inf"), "a finite number above 0")
        require("momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)")
        require("weight_decay", self.weight_decay, 0 <= self.weight_decay < float("inf"), "a finite number, 0 or more")
        require("bn_l1", self.bn_l1, 0 <= self.bn_l1 < float("inf"), "a finite number, 0 or more")
        require("factor", self.factor, 0 < self.factor < 1, "in (0, 1)")
        require("patience", self.patience, self.patience >= 0, "0 or more")
        require("label_smoothing", self.label_smoothing, 0 <= self.label_smoothing < 1, "in [0, 1)")
        require("warmup", self.warmup, 0 <= self.warmup < float("inf"), "a finite number of epochs, 0 or more")
        clips = self.clip_norm is None or 0 < self.clip_norm < float("inf")
        require("clip_norm", self.clip_norm, clips, "a finite number above 0, or None")
        require("accumulate", self.accumulate, self.accumulate >= 1, "1 or more")
        require("ema", self.ema, 0 <= self.ema < 1, "in [0, 1)")
        stops = self.stop_after is None or self.stop_after >= 1
        require("stop_after", self.stop_after, stops, "1 or more, or None")
        require("distill", self.distill, 0 <= self.distill <= 1, "in [0, 1]")
        hot = 0 < self.distill_temperature < float("inf")
        require("distill_temperature", self.distill_temperature, hot, "a finite number above 0")
        ascending = all(a < b for a, b in zip((0, *self.milestones), self.milestones, strict=False))
        require("milestones", self.milestones, ascending, "ascending epochs, 1 or more")
        if self.lr_schedule == "multistep":
            require(
                "milestones", self.milestones, bool(self.milestones), "at least one epoch for the multistep schedule"
            )
        if self.nesterov:
            require("nesterov", True, self.optimizer == "sgd" and self.momentum > 0, "for sgd with momentum above 0")
