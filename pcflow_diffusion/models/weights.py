"""Checkpoints of transformers: weights, configuration and vocabulary in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import torch

import pcflow as pf
from pcflow_diffusion.errors import CheckpointError
from pcflow_diffusion.models.transformer import Transformer, TransformerConfig

Config = TypeVar("Config", bound=TransformerConfig)
Model = TypeVar("Model", bound=Transformer)


def save_weights(
    model: Transformer, path: str | Path, vocabulary: Sequence[str], file_format: str
) -> None:
    """Write a model in half precision; the file is replaced in one step.

    Args:
        model: what to write.
        path: where to; its directory must exist.
        vocabulary: the V tokens in the order of their ids; a string is its characters.
        file_format: the name by which `load_weights` knows such a file.

    Raises:
        CheckpointError: if `vocabulary` does not have V entries, or half precision cannot hold a
            weight.
        OSError: if it cannot be written; an old file is left as it was.
    """
    if len(vocabulary) != model.config.vocabulary_size:
        wanted = model.config.vocabulary_size
        raise CheckpointError(f"vocabulary has {len(vocabulary)} entries, the model {wanted}")
    tensors = {name: weight.half() for name, weight in model.state_dict().items()}
    if not all(bool(weight.isfinite().all()) for weight in tensors.values()):
        raise CheckpointError("a weight is NaN, infinite, or too large for half precision")
    config, tokens = json.dumps(asdict(model.config)), json.dumps(list(vocabulary))
    texts = {"format": file_format, "config": config, "vocabulary": tokens}
    pf.Container.write(path, tensors, texts)


def load_weights(
    path: str | Path,
    device: torch.device | str,
    file_format: str,
    config_class: type[Config],
    build: Callable[[Config], Model],
) -> tuple[Model, list[str]]:
    """Read a file of `save_weights`; nothing in it is executed.

    Args:
        path: the file.
        device: where the model lives.
        file_format: that it was saved by.
        config_class: of the model's configuration.
        build: the model's class.

    Returns:
        The model in float32 and evaluation mode, and its vocabulary.

    Raises:
        CheckpointError: if the file is truncated, not of this format, contradicts itself, or a
            weight is NaN or infinite.
        OSError: if there is no such file, or it is no file that can be read.
    """
    try:
        file = pf.Container(path)
        found = file.texts.get("format")
        if found != file_format:
            raise ValueError(f"it has format {found!r}, not {file_format!r}")
        model, vocabulary = _restore(file, config_class, build)
    except pf.FileFormatError as error:
        raise CheckpointError(str(error)) from error
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return model.to(device).eval(), vocabulary


def _restore(
    file: pf.Container, config_class: type[Config], build: Callable[[Config], Model]
) -> tuple[Model, list[str]]:
    """The model and vocabulary that a file describes."""
    vocabulary = [str(token) for token in file.told("vocabulary")]
    config = config_class(**file.told("config"))
    if config.depth > len(file.shapes):  # before so many blocks are built
        raise ValueError(f"{config.depth} blocks in {len(file.shapes)} tensors")
    if len(vocabulary) != config.vocabulary_size:
        raise ValueError(f"{len(vocabulary)} tokens, not {config}")
    with torch.device("meta"):
        model = build(config)
    tensors = {name: weight.float() for name, weight in file.tensors().items()}
    model.load_state_dict(tensors, assign=True)
    return model, vocabulary
