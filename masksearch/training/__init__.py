"""Training and evaluation of dense, masked and pruned networks."""

from masksearch.training.augmentation import crop_flip, draw_crop_flip
from masksearch.training.evaluation import Evaluation, evaluate
from masksearch.training.input_check import Loss
from masksearch.training.lightning_and_transformers import lightning_callback, transformers_callback
from masksearch.training.masking import MaskSchedule
from masksearch.training.optimisation import learning_rate
from masksearch.training.own_loop import TrainFunction
from masksearch.training.own_loop_mask import KeptMask, keep_mask
from masksearch.training.record import Best, EpochRow, Training
from masksearch.training.train_function import train
from masksearch.training.train_settings import TrainSettings
from masksearch.training.training_splits import Examples, optimizer_steps, steps_per_epoch

__all__ = [
    "Best",
    "EpochRow",
    "Evaluation",
    "Examples",
    "KeptMask",
    "Loss",
    "MaskSchedule",
    "TrainFunction",
    "TrainSettings",
    "Training",
    "crop_flip",
    "draw_crop_flip",
    "evaluate",
    "keep_mask",
    "learning_rate",
    "lightning_callback",
    "optimizer_steps",
    "steps_per_epoch",
    "train",
    "transformers_callback",
]
