"""What a step of learning costs: against a backbone, from text alone, and at the least.

Legend: B blocks, L positions, V tokens, K states, k listed tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

import pcflow as pf
from pcflow_diffusion.evaluate.timing import Rates, interleaved, machine_sides, rates_of
from pcflow_diffusion.head import CircuitHead
from pcflow_diffusion.train import store_logits


@dataclass(frozen=True)
class LearningCost:
    """Median seconds of one step of Anemone, half of the tokens being masked.

    Attributes:
        length: how many positions there are, L.
        states: how many states the chain has, K.
        vocabulary: how many tokens there are, V.
        blocks: B, of a step.
        top_k: k.
        plain: seconds of a step on text.
        conditional: seconds of one against stored logits, read from disk.
        rates: of the machine, while this ran.
    """

    length: int
    states: int
    vocabulary: int
    blocks: int
    top_k: int
    plain: float
    conditional: float
    rates: Rates

    @property
    def floor(self) -> float:
        """Seconds to read and write all parameters once, and to multiply by the transitions.

        For every token that is up, down, and the counts.
        """
        parameters = self.vocabulary * self.states + self.states**2
        products = 6 * self.blocks * self.length * self.states**2
        return 8 * parameters / self.rates.bandwidth + products / self.rates.flops

    @property
    def ratio(self) -> float:
        """The conditional step over the plain one."""
        return self.conditional / self.plain


def measure_learning(
    length: int, states: int, vocabulary: int, top_k: int, blocks: int, repeats: int = 3
) -> LearningCost:
    """Time steps on the same text, by turns.

    Args:
        length: positions of a block, L.
        states: of the HMM, K.
        vocabulary: tokens, V.
        top_k: listed tokens per position.
        blocks: of a step, B.
        repeats: turns; two more warm up.
    """
    rows = _text(blocks, length, vocabulary)
    x = rows.masked_fill(torch.rand(rows.shape) < 0.5, vocabulary)
    model = pf.compile(pf.hmm(length, states, pf.Categorical(vocabulary)), dtype=torch.float32)
    head = CircuitHead(model, vocabulary, "product")
    plain, against = (pf.Anemone(0.1).start(model) for _ in range(2))
    with TemporaryDirectory() as folder:
        stored = store_logits(
            _Backbone(vocabulary), folder, rows, x, top_k=top_k, batch_size=4, progress=False
        )

        def conditional() -> None:
            some = stored[torch.arange(blocks)]
            against.step([head.conditional(some.logits, some.x, some.x0)])

        sides = {"plain": lambda: plain.step([pf.Batch(rows)]), "conditional": conditional}
        found = interleaved(sides | machine_sides(vocabulary, states), repeats)
    rates = rates_of(found, vocabulary, states)
    steps = found["plain"], found["conditional"]
    return LearningCost(length, states, vocabulary, blocks, top_k, *steps, rates)


def learning_table(costs: Sequence[LearningCost]) -> str:
    """Markdown: milliseconds of both steps, their ratio, and the floor.

    Examples:
        >>> cost = LearningCost(32, 64, 1000, 16, 256, 0.1, 0.12, Rates(1e9, 1e9))
        >>> print(learning_table([cost]))
        | one step of Anemone | on text, ms | over the floor | listed logits, ms | over text |
        |---|---|---|---|---|
        | 16 blocks of 32, 1,000 tokens, 64 states, top 256 | 100 | 7.6 x | 120 | 1.20 |
    """
    lines = [
        "| one step of Anemone | on text, ms | over the floor | listed logits, ms | over text |",
        "|---|---|---|---|---|",
    ]
    for cost in costs:
        what = (
            f"{cost.blocks} blocks of {cost.length}, {cost.vocabulary:,} tokens, "
            f"{cost.states:,} states, top {cost.top_k}"
        )
        over = cost.plain / cost.floor
        lines.append(
            f"| {what} | {1e3 * cost.plain:.0f} | {over:.1f} x | {1e3 * cost.conditional:.0f} "
            f"| {cost.ratio:.2f} |"
        )
    return "\n".join(lines)


class _Backbone:
    """Says of every position a little else, without a network."""

    def __init__(self, vocabulary: int) -> None:
        self.line = 3.0 * torch.randn(2, vocabulary)

    def __call__(self, tokens: Tensor) -> Tensor:
        share = (tokens % 97).unsqueeze(-1) / 97
        return share * self.line[0] + (1 - share) * self.line[1]


def _text(blocks: int, length: int, vocabulary: int) -> Tensor:
    """Tokens [B, L], a few of them often."""
    return (torch.rand(blocks, length) ** 8 * vocabulary).long()
