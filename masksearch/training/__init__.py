"""One trainer for dense, masked and pruned networks, and what it is made of."""

from masksearch.training.augment import crop_flip, draw_crop_flip
from masksearch.training.evaluation import Evaluation, evaluate
from masksearch.training.feed import Images, steps_per_epoch
from masksearch.training.learning_rate import learning_rate
from masksearch.training.probe import Loss
from masksearch.training.record import Best, EpochRow, Training
from masksearch.training.remask import Remask
from masksearch.training.settings import TrainSettings
from masksearch.training.trainer import train

__all__ = [
    "Best",
    "EpochRow",
    "Evaluation",
    "Images",
    "Loss",
    "Remask",
    "TrainSettings",
    "Training",
    "crop_flip",
    "draw_crop_flip",
    "evaluate",
    "learning_rate",
    "steps_per_epoch",
    "train",
]
