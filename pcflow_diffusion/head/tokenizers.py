"""Which tokenizer ids are of: a fingerprint of its vocabulary."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from operator import index
from pathlib import Path
from typing import Any

from pcflow import read_bytes
from pcflow_diffusion.errors import CheckpointError, TokenizerMismatch, TypeMismatch

FILE = "tokenizer.json"


def fingerprint(tokenizer: object) -> str:
    """What tells a tokenizer apart from others whose ids mean something else.

    Tokens and their ids decide, added ones included, and nothing else: not how texts are cut,
    padded or truncated, nor which library or version of it reads the tokenizer.

    Args:
        tokenizer: of `transformers` or `tokenizers` (`get_vocab()`), of this package
            (`vocabulary`), or the path of a `tokenizer.json` or of the folder that holds one, which
            is read without either library; what the file does not list, such as a token that was
            added later, the tokenizer alone knows.

    Returns:
        "sha256:" and 64 digits, to be given to `CircuitHead(tokenizer=...)`.

    Raises:
        CheckpointError: if a file does not list tokens and ids.
        OSError: if it cannot be read.
        TypeMismatch: if it is none of these, or has no texts with whole numbers.

    Examples:
        >>> from pcflow_diffusion import CharacterTokenizer
        >>> fingerprint(CharacterTokenizer("ab" + chr(0xFFFD)))[:15]
        'sha256:7864fce3'
    """
    told = hashlib.sha256()
    for pair in sorted(_pairs(_vocabulary(tokenizer))):
        told.update(json.dumps(pair).encode() + b"\n")
    return f"sha256:{told.hexdigest()}"


def encode(tokenizer: Any, text: str) -> tuple[int, ...]:
    """The ids of a text, with nothing put around it.

    Args:
        tokenizer: as `fingerprint` takes it, but no path.
        text: the text.

    Raises:
        TypeMismatch: if it is no tokenizer.

    Examples:
        >>> from pcflow_diffusion import CharacterTokenizer
        >>> encode(CharacterTokenizer("ab" + chr(0xFFFD)), "ba")
        (1, 0)
    """
    if not callable(getattr(tokenizer, "encode", None)) or isinstance(tokenizer, str):
        raise TypeMismatch(f"tokenizer must be one, got {type(tokenizer).__name__}")
    ours = hasattr(tokenizer, "vocabulary")
    found = tokenizer.encode(text) if ours else tokenizer.encode(text, add_special_tokens=False)
    return tuple(index(number) for number in getattr(found, "ids", found))


def check_made_for(known: str | None, tokenizer: str) -> None:
    """Refuse a head whose tokenizer has another fingerprint, or an unknown one.

    Raises:
        TokenizerMismatch: if it has.
    """
    if known != tokenizer:
        raise TokenizerMismatch(known, tokenizer)


def _pairs(vocabulary: object) -> list[tuple[int, str]]:
    """Ids and tokens, of whatever kind of whole numbers the ids are."""
    try:
        found = [(index(number), token) for token, number in vocabulary.items()]  # type: ignore[attr-defined]
    except (AttributeError, TypeError) as error:
        raise TypeMismatch(f"get_vocab() must have tokens and their ids: {error}") from error
    if not all(isinstance(token, str) for _, token in found):
        raise TypeMismatch("get_vocab() must have tokens and their ids: some are no texts")
    return found


def _vocabulary(tokenizer: object) -> Mapping[str, int]:
    """Ids of all tokens."""
    if isinstance(tokenizer, str | os.PathLike):
        path = Path(tokenizer)
        return _listed(path / FILE if path.is_dir() else path)
    if callable(get := getattr(tokenizer, "get_vocab", None)):
        found: dict[str, int] = get()
        return found
    if isinstance(tokens := getattr(tokenizer, "vocabulary", None), list):
        return {token: number for number, token in enumerate(tokens)}
    kind = type(tokenizer).__name__
    raise TypeMismatch(f"tokenizer must be one, or the path of its file, got {kind}")


def _listed(path: Path) -> dict[str, int]:
    """Ids of the tokens that a file of the library `tokenizers` lists."""
    try:
        told = json.loads(read_bytes(path))
        found = _numbered(told["model"]["vocab"])
        found |= {str(token["content"]): int(token["id"]) for token in told["added_tokens"]}
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} lists no tokens and ids: {error}") from error
    return found


def _numbered(vocabulary: Any) -> dict[str, int]:
    """Ids as they are told, or, in a list of tokens and scores, places."""
    if isinstance(vocabulary, list):
        return {str(token): number for number, (token, _) in enumerate(vocabulary)}
    return {str(token): int(number) for token, number in vocabulary.items()}
