"""Real texts as tokens, cut into windows of context and block: plays and sums.

Legend: N tokens, R rows, C context, L tokens of a block.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from toy import size

from pcflow_diffusion.models import BLOCK, CONTEXT, CharacterTokenizer, blocks, load_text, windows
from pcflow_diffusion.models.subwords import SubwordTokenizer

NAMES = ("tinyshakespeare", "gsm8k")
STRIDE = 4  # between two training windows of gsm8k
VOCABULARY = size(2_048, 300)
WHERE = """Give --data DIR or PCFLOW_DATA, a folder with
text/tinyshakespeare.txt: https://github.com/karpathy/char-rnn, data/tinyshakespeare/input.txt
text/gsm8k.train.jsonl, text/gsm8k.test.jsonl: https://github.com/openai/grade-school-math"""


@dataclass(frozen=True)
class Corpus:
    """A text that is ready for use.

    Attributes:
        name: one of `NAMES`.
        tokenizer: text to tokens and back.
        train: windows to learn from, [R, C + L].
        held_out: other windows, whose blocks do not overlap, [R, C + L].
    """

    name: str
    tokenizer: CharacterTokenizer | SubwordTokenizer
    train: Tensor
    held_out: Tensor

    def parts(self, judged: int, calibration: int) -> tuple[Tensor, Tensor]:
        """Held-out windows to judge by, and others to fit couplings with; the same every time."""
        order = torch.randperm(len(self.held_out), generator=torch.Generator().manual_seed(0))
        chosen = self.held_out[order].long()
        return chosen[:judged], chosen[judged : judged + calibration]


def load(name: str, data: Path) -> Corpus:
    """The corpus of that name, from the folder with the data sets."""
    how = {"tinyshakespeare": tinyshakespeare, "gsm8k": gsm8k}
    return how[name](data / "text")


def tinyshakespeare(folder: Path) -> Corpus:
    """Plays, by characters; the last tenth is held out."""
    text = load_text(folder / "tinyshakespeare.txt")
    tokenizer = CharacterTokenizer.fit(text.train)
    train = windows(tokenizer.encode(text.train), CONTEXT + BLOCK, 1)
    return Corpus("tinyshakespeare", tokenizer, train, blocks(tokenizer.encode(text.held_out)))


def gsm8k(folder: Path) -> Corpus:
    """Answers to sums after their questions, by subwords; blocks lie within answers."""
    train, test = (_problems(folder / f"gsm8k.{part}.jsonl") for part in ("train", "test"))
    tokenizer = SubwordTokenizer.fit((q + a for q, a in train), VOCABULARY)
    seen = _windows(tokenizer, train, STRIDE)
    return Corpus("gsm8k", tokenizer, seen.short(), _windows(tokenizer, test, BLOCK))


def _problems(path: Path) -> list[tuple[str, str]]:
    """Questions and answers."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(row["question"] + "\n", row["answer"] + "\n\n") for row in rows]


def _windows(tokenizer: SubwordTokenizer, problems: list[tuple[str, str]], stride: int) -> Tensor:
    """Windows whose blocks start every `stride` tokens of an answer and lie within it."""
    texts, starts, length = [], [], 0
    for question, answer in problems:
        asked, answered = tokenizer.encode(question), tokenizer.encode(answer)
        first = length + len(asked)
        length = first + len(answered)
        texts += [asked, answered]
        starts += [s for s in range(first, length - BLOCK + 1, stride) if s >= CONTEXT]
    offsets = torch.arange(-CONTEXT, BLOCK)
    return torch.cat(texts).to(torch.int32)[torch.tensor(starts)[:, None] + offsets]


def draw(data: Path) -> Path:
    """All texts, made up at toy size, in a folder of their own like the real ones."""
    (data / "text").mkdir(parents=True, exist_ok=True)
    sums = random.Random(0)
    told = [list(_sums(sums, count)) for count in (40, 20)]
    lines = [f"{row['question']}\n{row['answer']}\n" for part in told for row in part]
    (data / "text" / "tinyshakespeare.txt").write_text("\n".join(lines), encoding="utf-8")
    for name, rows in zip(("train", "test"), told, strict=True):
        path = data / "text" / f"gsm8k.{name}.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return data


def _sums(draw: random.Random, count: int) -> Iterator[dict[str, str]]:
    for _ in range(count):
        numbers = [draw.randrange(100) for _ in range(8)]
        asked = ", then ".join(f"{number} apples" for number in numbers)
        steps = [
            f"{sum(numbers[:i])} + {numbers[i]} = {sum(numbers[: i + 1])}" for i in range(1, 8)
        ]
        question = f"Ann gets {asked}. How many does she have?"
        yield {"question": question, "answer": "\n".join(steps)}
