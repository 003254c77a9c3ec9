"""Checkpoints of transformers: weights, configuration and vocabulary in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pcflow_diffusion.errors import CheckpointError
from pcflow_diffusion.files import replace_file
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
        CheckpointError: if `vocabulary` does not have V entries.
    """
    if len(vocabulary) != model.config.vocabulary_size:
        wanted = model.config.vocabulary_size
        raise CheckpointError(f"vocabulary has {len(vocabulary)} entries, the model {wanted}")
    tensors = {name: w.detach().half().contiguous() for name, w in model.state_dict().items()}
    config, tokens = json.dumps(asdict(model.config)), json.dumps(list(vocabulary))
    metadata = {"format": file_format, "config": config, "vocabulary": tokens}
    replace_file(Path(path), save(tensors, metadata=metadata))


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
        CheckpointError: if the file is truncated, not of this format, or contradicts itself.
        FileNotFoundError: if there is no such file.
    """
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error
    found = metadata.get("format")
    if found != file_format:
        raise CheckpointError(f"{path} has format {found!r}, expected {file_format!r}")
    try:
        return _restore(metadata, tensors, config_class, build)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} contradicts itself: {error}") from error


def _restore(
    metadata: dict[str, str],
    tensors: dict[str, Tensor],
    config_class: type[Config],
    build: Callable[[Config], Model],
) -> tuple[Model, list[str]]:
    """The model and vocabulary that a file describes."""
    vocabulary = [str(token) for token in json.loads(metadata["vocabulary"])]
    config = config_class(**json.loads(metadata["config"]))
    if config.depth > len(tensors):  # before so many blocks are built
        raise CheckpointError(f"{config.depth} blocks in {len(tensors)} tensors")
    if len(vocabulary) != config.vocabulary_size:
        raise CheckpointError(f"{len(vocabulary)} tokens, not {config}")
    with torch.device("meta"):
        model = build(config)
    model.load_state_dict(tensors, assign=True)
    return model.eval(), vocabulary
