"""Tokenizers by name: one that is there, characters, or subwords that are learned from the text."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pcflow as pf
from pcflow_diffusion.checks import did_you_mean
from pcflow_diffusion.errors import CheckpointError, TextError
from pcflow_diffusion.head import fingerprint
from pcflow_diffusion.models import CharacterTokenizer, PretrainedTokenizer
from pcflow_diffusion.train.tokens import Encode

CHARACTERS = "characters"
LEARNED = re.compile(r"train:(\d{1,9})")
SAMPLE = 1 << 14  # documents that subwords are learned from, at most 270 million characters
FEWEST = 5  # a character that occurs less often is unknown
FILE = "tokenizer.json"
UNKNOWN = "\ufffd"


@dataclass(frozen=True)
class Encoder:
    """What is asked of a tokenizer.

    Attributes:
        encode: texts to the ids of their tokens, with nothing put around them.
        vocabulary_size: V, how many tokens a model of them has.
        mask_token_id: which of them is the mask; V if none is.
        fingerprint: see `pcflow_diffusion.fingerprint`.
        end_of_text: the token that stands behind a document, as text; empty if none is known.
    """

    encode: Encode
    vocabulary_size: int
    mask_token_id: int
    fingerprint: str
    end_of_text: str = ""

    def check_end(self, end: str) -> None:
        """Refuse what is not one token.

        Raises:
            TextError: if it is several, or unknown.

        Examples:
            >>> letters = Encoder(lambda texts: [[ord(c) for c in t] for t in texts], 128, 128, "")
            >>> letters.check_end("z")
        """
        ids, unknown = self.encode([end, UNKNOWN])
        if len(ids) != 1 or list(ids) == list(unknown):
            raise TextError(f"{end!r} is no token of the tokenizer, so it ends no text")


def encoder_of(tokenizer: PretrainedTokenizer) -> Encoder:
    """That of a backbone."""
    return Encoder(
        lambda texts: tokenizer.tokenizer(texts, add_special_tokens=False, verbose=False).input_ids,
        tokenizer.vocabulary_size,
        tokenizer.mask_token_id,
        fingerprint(tokenizer),
        getattr(tokenizer.tokenizer, "eos_token", None) or "",
    )


def is_learned(name: str) -> bool:
    """Whether a tokenizer is learned from the text."""
    return name == CHARACTERS or LEARNED.fullmatch(name) is not None


def open_encoder(name: str, texts: Iterable[str], made: Path, *, anew: bool = False) -> Encoder:
    """The tokenizer that is called so.

    Args:
        name: a `tokenizer.json`, a folder that holds one, with the `config.json` of the model if
            there is one; "characters"; or "train:8000" for so many subwords of bytes.
        texts: what the latter two are learned from.
        made: the file in which they are kept, and found again.
        anew: whether to learn them again.

    Raises:
        TextError: if there is no such file or folder; or the text holds no characters.
        CheckpointError: if a file is no tokenizer.
        ImportError: if it needs `tokenizers`, which is not installed.
        OSError: if a file cannot be read or written.
    """
    learned = LEARNED.fullmatch(name)
    if not is_learned(name):
        return _of_file(Path(name))
    if anew or not made.exists():
        text = _characters(texts) if learned is None else _subwords(texts, int(learned[1]))
        pf.replace_file(made, [text.encode()])
    return _of_characters(made) if learned is None else _of_file(made)


def _characters(texts: Iterable[str]) -> str:
    """JSON of the characters of a text, all that occur often enough."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    frequent = {c for c, n in counts.items() if n >= FEWEST}
    return json.dumps({CHARACTERS: "".join(sorted(frequent | {UNKNOWN}))})


def _of_characters(path: Path) -> Encoder:
    try:
        known = CharacterTokenizer(json.loads(pf.read_bytes(path))[CHARACTERS])
    except (LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} lists no characters ({error}); remove it") from error
    ids = {character: number for number, character in enumerate(known.characters)}
    unknown = ids[UNKNOWN]
    return Encoder(
        lambda texts: [[ids.get(character, unknown) for character in text] for text in texts],
        known.vocabulary_size,
        known.mask_token_id,
        fingerprint(known),
    )


def _subwords(texts: Iterable[str], size: int) -> str:
    """Definition of subwords of a text."""
    try:
        from pcflow_diffusion.models.subwords import SubwordTokenizer
    except ImportError as error:
        raise ImportError(f"pip install 'pcflow[subwords]' ({error})") from error
    return SubwordTokenizer.fit(islice(iter(texts), SAMPLE), size).definition()


def _of_file(path: Path) -> Encoder:
    """A tokenizer of the library `tokenizers`."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ImportError(f"pip install 'pcflow[subwords]' ({error})") from error
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        near = [CHARACTERS, "train:8000", *map(str, path.parent.glob("*"))]
        raise TextError(f"there is no tokenizer {file}{did_you_mean(str(path), near)}")
    try:
        tokenizer = Tokenizer.from_str(pf.read_bytes(file).decode())
    except Exception as error:  # the package has no errors of its own
        raise CheckpointError(f"{file} is no tokenizer of `tokenizers` ({error})") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    known = tokenizer.get_vocab()
    size, mask = _sizes(file.parent, known)
    end = _token(file.parent, "eos_token")

    def encode(texts: list[str]) -> list[list[int]]:
        found = tokenizer.encode_batch(texts, add_special_tokens=False)
        return [encoding.ids for encoding in found]

    return Encoder(encode, size, mask, fingerprint(tokenizer), end if end in known else "")


def _sizes(folder: Path, known: dict[str, int]) -> tuple[int, int]:
    """V and the mask: what the model beside a tokenizer says, or else the tokenizer itself.

    A model may have logits for more ids than its tokenizer has tokens.
    """
    model = _told(folder / "config.json")
    size = max(max(known.values()) + 1, int(model.get("vocab_size") or 0))
    mask = model.get("mask_token_id")
    mask = known.get(_token(folder, "mask_token")) if mask is None else mask
    return size, size if mask is None else int(mask)


def _token(folder: Path, name: str) -> str:
    """What the file beside a tokenizer calls a special token; empty if it has none."""
    token = _told(folder / "tokenizer_config.json").get(name)
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else ""


def _told(path: Path) -> dict[str, Any]:
    """What a file of JSON tells; nothing if there is none."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(pf.read_bytes(path))
    except ValueError as error:
        raise CheckpointError(f"{path} is no JSON ({error})") from error
    return found if isinstance(found, dict) else {}
