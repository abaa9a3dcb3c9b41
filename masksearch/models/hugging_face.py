"""Pretrained networks of Hugging Face Transformers, from local folders of weights; nothing is downloaded."""

import copy
import hashlib
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from masksearch.utils.errors import InputError, first_line
from masksearch.utils.user_functions import weights_folder

__all__ = ["check_folder", "folder_digest", "from_transformers"]

_CONFIG = "config.json"
_WEIGHTS = (".safetensors", ".bin", ".json")
_Files = tuple[tuple[Path, int, int], ...]


def check_folder(folder: str) -> None:
    """Raise an InputError if Transformers is not installed, or if a model's folder has no ``config.json``."""
    try:
        import transformers  # noqa: F401
    except ImportError:
        raise InputError(
            f"model: transformers:{folder} needs the package transformers: pip install transformers"
        ) from None
    if not (path := weights_folder(folder) / _CONFIG).is_file():
        raise InputError(
            f"model: transformers:{folder}; no {path}: a local folder is needed that save_pretrained has written, with "
            "weights and tokenizer"
        )


def from_transformers(folder: str, task: str, classes: int | None) -> nn.Module:
    """Load the pretrained float32 network of a local folder: by ``task``, a causal language model or text classifier.

    Weights that the folder lacks, such as those of a classifier's last layer, are drawn at random.

    Parameters
    ----------
    task : str
        ``language_model`` or ``classification``.
    classes : int, optional
        Number of classes of a classifier.

    Raises
    ------
    InputError
        For another task, without Transformers, or if Transformers can't load the folder.
    """
    check_folder(folder)
    if task not in ("language_model", "classification"):
        raise InputError(
            f"model: transformers:{folder} is for the tasks language_model and classification, and the data is for "
            f"{task}; give module:function"
        )
    try:
        return copy.deepcopy(_loaded(_state(folder), task, classes, torch.initial_seed()))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"model: transformers:{folder} can't be loaded ({first_line(error)})") from None


@lru_cache(maxsize=1)  # loading takes longer than a copy, and a sweep builds its network again and again
def _loaded(files: _Files, task: str, classes: int | None, seed: int) -> nn.Module:
    """Return the network of a folder's files; ``seed`` is that of torch's generator, which draws missing weights."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, logging

    path, verbosity, bars = files[0][0].parent, logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        if task == "language_model":
            model = AutoModelForCausalLM.from_pretrained(path, local_files_only=True, use_cache=False)
        else:
            model = AutoModelForSequenceClassification.from_pretrained(
                path, local_files_only=True, use_cache=False, num_labels=classes
            )
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    network: nn.Module = model.float().train()
    return network


def folder_digest(folder: str) -> str:
    """Return a SHA-256 digest (16 hex digits) of a model folder's files; ``folder`` itself if there is no such folder.

    Files that have not changed since the last call are not read again.
    """
    return _digest(_state(folder)) if weights_folder(folder).is_dir() else folder


def _state(folder: str) -> _Files:
    """Return path, size and time of the last change of a folder's files of weights and configuration."""
    found = sorted(path for path in weights_folder(folder).iterdir() if path.suffix in _WEIGHTS)
    return tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in found)


@lru_cache(maxsize=8)
def _digest(files: _Files) -> str:
    sha = hashlib.sha256()
    for path, _, _ in files:
        sha.update(path.name.encode())
        with path.open("rb") as file:
            sha.update(hashlib.file_digest(file, "sha256").digest())
    return sha.hexdigest()[:16]
