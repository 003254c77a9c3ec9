"""Checkpoints of transformers: weights, configuration and tokenizer in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import torch

import pcflow as pf
from pcflow_diffusion.checks import check_kind
from pcflow_diffusion.errors import CheckpointError
from pcflow_diffusion.models.pieces import PieceTokenizer
from pcflow_diffusion.models.text import CharacterTokenizer, Tokenizer
from pcflow_diffusion.models.transformer import Transformer, TransformerConfig

Config = TypeVar("Config", bound=TransformerConfig)
Model = TypeVar("Model", bound=Transformer)


@runtime_checkable
class Merging(Protocol):
    """A tokenizer that cannot be told by its vocabulary alone."""

    def definition(self) -> str:
        """All that it is, as text."""
        ...


def save_weights(
    model: Transformer, path: str | Path, tokenizer: Tokenizer, file_format: str
) -> None:
    """Write a model in half precision; the file is replaced in one step.

    Args:
        model: what to write.
        path: where to; its directory must exist.
        tokenizer: what makes tokens of text, V of them.
        file_format: the name by which `load_weights` knows such a file.

    Raises:
        CheckpointError: if the tokenizer does not have V tokens, or half precision cannot hold a
            weight.
        TypeMismatch: if it is no tokenizer.
        OSError: if it cannot be written; an old file is left as it was.
    """
    check_kind("tokenizer", tokenizer, Tokenizer)
    count, wanted = tokenizer.vocabulary_size, model.config.vocabulary_size
    if count != wanted:
        raise CheckpointError(f"the tokenizer has {count} tokens, the model {wanted}")
    tensors = {name: weight.half() for name, weight in model.state_dict().items()}
    if not all(bool(weight.isfinite().all()) for weight in tensors.values()):
        raise CheckpointError("a weight is NaN, infinite, or too large for half precision")
    config, tokens = json.dumps(asdict(model.config)), json.dumps(tokenizer.vocabulary)
    texts = {"format": file_format, "config": config, "vocabulary": tokens}
    if isinstance(tokenizer, Merging):
        texts["subwords"] = tokenizer.definition()
    pf.Container.write(path, tensors, texts)


def load_weights(
    path: str | Path,
    file_format: str,
    config_class: type[Config],
    build: Callable[[Config], Model],
) -> tuple[Model, Tokenizer]:
    """Read a file of `save_weights`; nothing in it is executed.

    Args:
        path: the file.
        file_format: that it was saved by.
        config_class: of the model's configuration.
        build: the model's class.

    Returns:
        The model in float32 and evaluation mode, and its tokenizer.

    Raises:
        CheckpointError: if the file is truncated, not of this format, contradicts itself, or a
            weight is NaN or infinite.
        ImportError: if its tokens are subwords and `pcflow[subwords]` is not installed.
        OSError: if there is no such file, or it is no file that can be read.
    """
    try:
        file = pf.Container(path)
        found = file.texts.get("format")
        if found != file_format:
            raise ValueError(f"it has format {found!r}, not {file_format!r}")
        tokenizer = _tokenizer_of(file)
        model = _model_of(file, tokenizer.vocabulary_size, config_class, build)
    except pf.FileFormatError as error:
        raise CheckpointError(str(error)) from error
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return model.eval(), tokenizer


def _tokenizer_of(file: pf.Container) -> Tokenizer:
    """The tokenizer that a file describes: of subwords if it says how they are merged."""
    vocabulary = file.told("vocabulary")
    if "subwords" not in file.texts:
        characters = all(len(token) == 1 for token in vocabulary)
        return CharacterTokenizer("".join(vocabulary)) if characters else PieceTokenizer(vocabulary)
    from pcflow_diffusion.models.subwords import SubwordTokenizer

    found = SubwordTokenizer.from_definition(file.texts["subwords"])
    if found.vocabulary != vocabulary:
        raise ValueError("its vocabulary is not that of its subwords")
    return found


def _model_of(
    file: pf.Container, count: int, config_class: type[Config], build: Callable[[Config], Model]
) -> Model:
    """The model that a file describes, over so many tokens."""
    config = config_class(**file.told("config"))
    if config.depth > len(file.shapes):  # before so many blocks are built
        raise ValueError(f"{config.depth} blocks in {len(file.shapes)} tensors")
    if count != config.vocabulary_size:
        raise ValueError(f"{count} tokens, not {config}")
    with torch.device("meta"):
        model = build(config)
    tensors = {name: weight.float() for name, weight in file.tensors().items()}
    model.load_state_dict(tensors, assign=True)
    return model
