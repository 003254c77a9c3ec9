"""Few steps per block: what text do decoders write that are given little time?

Every decoder continues the same prompts, in 1, 2, 4, ... steps per block. The text is read by a
judge that no decoder sees, and stands beside the entropy of its tokens: text that repeats itself is
probable, and worthless. The ablation takes confidence and tokens from the marginals of the
coupled joint, but draws every token for itself; what it lacks is what drawing jointly is worth.

Positions are ranked at random unless told otherwise: that leaves the frequencies of tokens alone.
Rankings that prefer sure tokens commit frequent ones, the more so the more steps there are, and two
decoders whose entropies differ say little by their nats.

Legend: N rows, P tokens of a prompt, T tokens written, L tokens of a block, V tokens.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Protocol

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pcflow_diffusion.decode import Decoding, generate
from pcflow_diffusion.errors import GenerationError, ShapeMismatch
from pcflow_diffusion.evaluate.figure import save_figure
from pcflow_diffusion.head import CircuitHead
from pcflow_diffusion.models import BLOCK, Backbone
from pcflow_diffusion.models.progress import bar

STEPS = (1, 2, 4, 8, 16, 32)
FACTORISED, REAL = "factorised", "real text"
AS_IT_IS = Decoding(temperature=1.0, ranking="random")


class Reader(Protocol):
    """Whoever tells how probable tokens are: a `Judge`, or a language model of your own."""

    def nats(self, rows: Tensor, last: int) -> Tensor:
        """Nats [N, last] of each of the last tokens of every row [N, n], given those before it."""
        ...


@dataclass(frozen=True)
class Decoder:
    """How masked tokens are drawn.

    Args:
        head: couples them; None draws them independently from the backbone's marginals.
        jointly: False draws them independently from the marginals of the coupled joint.

    Examples:
        >>> Decoder()
        Decoder(head=None, jointly=True)
    """

    head: CircuitHead | None = None
    jointly: bool = True


@dataclass(frozen=True, eq=False)
class CoupledMarginals:
    """A backbone that says of the last tokens what the coupled joint says of each of them.

    Args:
        backbone: maps tokens [N, n] to logits [N, n, V].
        head: couples the last tokens.
        block_length: how many, L; not more than the circuit has variables.

    Raises:
        ShapeMismatch: if the circuit is shorter than the block.

    Examples:
        >>> import pcflow as pf
        >>> head = CircuitHead(pf.compile(pf.hmm(3, 2, pf.Categorical(5))), mask_token_id=5)
        >>> flat = lambda tokens: torch.zeros(*tokens.shape, 5)
        >>> CoupledMarginals(flat, head, block_length=2)(torch.tensor([[1, 5, 5]])).shape
        torch.Size([1, 3, 5])
    """

    backbone: Backbone
    head: CircuitHead
    block_length: int

    def __post_init__(self) -> None:
        """Check that the head covers the block."""
        self.head.over(self.block_length)

    @property
    def mask_token_id(self) -> int:
        """The head's."""
        return self.head.mask_token_id

    @torch.no_grad()
    def __call__(self, tokens: Tensor, /) -> Tensor:
        """Logits [N, n, V]: the backbone's, and in the last block log q_i where masked."""
        logits, L = self.backbone(tokens), self.block_length
        block = self.head.over(L)(logits[:, -L:], tokens[:, -L:])  # [N, L, V]
        return torch.cat([logits[:, :-L], block], dim=1)


@dataclass(frozen=True, eq=False)
class Written:
    """Text that follows prompts, and what a judge says of it.

    Attributes:
        tokens: [N, T].
        row_nats: nats per token of every row under the judge, [N].
        runs: of how many runs over the same prompts, whose rows stand one run after the other.
    """

    tokens: Tensor
    row_nats: Tensor
    runs: int = 1

    @property
    def nats(self) -> float:
        """Nats per token under the judge."""
        return float(self.row_nats.mean())

    @property
    def entropy(self) -> float:
        """Entropy (nats) of the frequencies of all tokens; of several runs the mean.

        Examples:
            >>> round(Written(torch.tensor([[3, 5], [5, 3]]), torch.ones(2)).entropy, 4)  # log 2
            0.6931
        """
        return mean(map(_entropy, self.tokens.chunk(self.runs)))

    @property
    def by_prompt(self) -> Tensor:
        """Nats per token of every prompt, over all runs [N / runs]."""
        return self.row_nats.view(self.runs, -1).mean(dim=0)

    def __str__(self) -> str:
        """Nats, of several runs their standard deviation, and entropy."""
        each = self.row_nats.view(self.runs, -1).mean(dim=1)
        spread = f" ± {float(each.std()):.3f}" if self.runs > 1 else ""
        return f"{self.nats:.3f}{spread} ({self.entropy:.3f})"


def _entropy(tokens: Tensor) -> float:
    counts = torch.bincount(tokens.flatten()).double()
    return float(torch.special.entr(counts / counts.sum()).sum())


Ladder = Mapping[str, Mapping[int, Written]]
"""By decoder and by steps per block, what was written."""


def together(runs: Sequence[Ladder]) -> dict[str, dict[int, Written]]:
    """Several runs of the same decoders over the same prompts as one.

    Examples:
        >>> texts = (Written(torch.tensor([[0, 1]]), torch.tensor([nats])) for nats in (1.0, 3.0))
        >>> print(together([{"ours": {4: text}} for text in texts])["ours"][4])
        2.000 ± 1.414 (0.693)
    """
    return {
        name: {count: _stacked([run[name][count] for run in runs]) for count in row}
        for name, row in runs[0].items()
    }


def _stacked(parts: Sequence[Written]) -> Written:
    tokens = torch.cat([part.tokens for part in parts])
    return Written(tokens, torch.cat([part.row_nats for part in parts]), len(parts))


def judge_rows(judge: Reader, rows: Tensor, prompt_length: int, block_length: int) -> Written:
    """What a judge says of all that follows prompts.

    Every block is read after the `prompt_length` tokens before it, however much was written before.

    Args:
        judge: reads.
        rows: prompts and what follows, [N, P + T].
        prompt_length: how many tokens a prompt has, P.
        block_length: L, of which T is a multiple.

    Raises:
        ShapeMismatch: if nothing follows the prompts, or no whole number of blocks.

    Examples:
        >>> from pcflow_diffusion.models import Judge, TransformerConfig
        >>> judge = Judge(TransformerConfig(vocabulary_size=7, width=16, depth=1, heads=2))
        >>> judge_rows(judge, torch.zeros(3, 10).long(), 6, block_length=2).row_nats.shape
        torch.Size([3])
    """
    follows = rows.shape[-1] - prompt_length
    if rows.ndim != 2 or len(rows) == 0 or follows < 1 or block_length < 1:
        raise ShapeMismatch(f"rows {tuple(rows.shape)} with {prompt_length=}, {block_length=}")
    if follows % block_length:
        raise ShapeMismatch(f"{follows} tokens are no whole number of blocks: {block_length=}")
    parts = rows.unfold(1, prompt_length + block_length, block_length)  # [N, T / L, P + L]
    nats = judge.nats(parts.flatten(0, 1), last=block_length)  # [N * T / L, L]
    return Written(rows[:, prompt_length:], nats.double().reshape(len(rows), -1).mean(dim=1))


def ladder(
    backbone: Backbone,
    decoders: Mapping[str, Decoder],
    prompts: Tensor,
    judge: Reader,
    steps: Sequence[int] = STEPS,
    *,
    block_length: int = BLOCK,
    gen_length: int | None = None,
    decoding: Decoding = AS_IT_IS,
    mask_token_id: int | None = None,
    generator: torch.Generator | None = None,
    progress: bool | None = None,
) -> dict[str, dict[int, Written]]:
    """What every decoder writes in so many steps per block, and what the judge says of it.

    All start from the same prompts and the same seed, which is drawn once. Backbone and judge see
    as many tokens before a block as a prompt has.

    Args:
        backbone: maps tokens [N, n] to logits [N, n, V].
        decoders: by name.
        prompts: [N, P]; more rows than prompts, by repeating them, make figures surer.
        judge: reads what was written.
        steps: numbers of steps per block, each from 1 to L.
        block_length: tokens of a block, L.
        gen_length: tokens to write, T; one block by default.
        decoding: how tokens are decided, the same for all; by default at random and at temperature
            1, which draws from the models as they are.
        mask_token_id: the backbone's mask; by default the head's, or `backbone.mask_token_id`.
        generator: source of randomness; torch's global one by default.
        progress: whether to show a bar; by default if standard error is a terminal.

    Returns:
        By decoder and steps.

    Raises:
        GenerationError: if there is nothing to do, or lengths, steps and settings do not fit.
        ShapeMismatch: if prompts are not [N, P], or a head is shorter than the block where tokens
            are drawn from its marginals.

    Examples:
        >>> from pcflow_diffusion.models import Judge, TransformerConfig
        >>> judge = Judge(TransformerConfig(vocabulary_size=4, width=16, depth=1, heads=2))
        >>> flat, prompts = lambda x: torch.zeros(*x.shape, 4), torch.zeros(3, 5, dtype=torch.long)
        >>> settings = dict(block_length=2, mask_token_id=4, progress=False)
        >>> found = ladder(flat, {"factorised": Decoder()}, prompts, judge, (1, 2), **settings)
        >>> found["factorised"][2].tokens.shape
        torch.Size([3, 2])
    """
    T = block_length if gen_length is None else gen_length
    _check(decoders, prompts, steps, block_length, T)
    device = None if generator is None else generator.device
    seed = int(torch.randint(2**62, (), generator=generator, device=device))
    asked = {name: _asked(backbone, how, block_length) for name, how in decoders.items()}
    found: dict[str, dict[int, Written]] = {name: {} for name in decoders}
    cells = [(name, count) for count in steps for name in decoders]
    for name, count in bar(cells, progress, desc="writing", unit="run"):
        rows = generate(
            asked[name],
            prompts,
            decoders[name].head if decoders[name].jointly else None,
            steps=count * (T // block_length),
            gen_length=T,
            block_length=block_length,
            mask_token_id=mask_token_id,
            decoding=decoding,
            show="blocks",
            context=prompts.shape[1],
            generator=torch.Generator(prompts.device).manual_seed(seed),
        )
        found[name][count] = judge_rows(judge, rows, prompts.shape[1], block_length)
    return found


def _check(
    decoders: Mapping[str, Decoder], prompts: Tensor, steps: Sequence[int], L: int, T: int
) -> None:
    """Refuse what would fail, or say nothing, after the first runs."""
    if not decoders or not steps:
        raise GenerationError(f"nothing to do: {len(decoders)} decoders, {steps=}")
    if prompts.ndim != 2 or len(prompts) == 0:
        raise ShapeMismatch(f"prompts must be [N, P], N at least 1: {tuple(prompts.shape)}")
    if L < 1 or T < 1 or T % L:
        raise GenerationError(f"gen_length={T} must be a positive multiple of block_length={L}")
    if not all(1 <= count <= L for count in steps):
        raise GenerationError(f"steps per block must lie in 1 to block_length={L}: {steps}")
    for name, decoder in decoders.items():
        if decoder.head is None and not decoder.jointly:
            raise GenerationError(f"decoder {name!r} has no head whose marginals could be drawn")


def _asked(backbone: Backbone, decoder: Decoder, block_length: int) -> Backbone:
    """What gives the logits that a decoder draws from, or couples."""
    if decoder.head is None or decoder.jointly:
        return backbone
    return CoupledMarginals(backbone, decoder.head, block_length)


def markdown(found: Ladder, reference: Written | None = None) -> str:
    """Nats under the judge by decoder and steps, in brackets the entropy, in Markdown.

    Of several runs (see `together`) they are means, with the standard deviation of the nats.

    Args:
        found: by decoder and steps per block; the same steps for all.
        reference: what really follows the prompts.

    Examples:
        >>> text = Written(torch.tensor([[0, 1]]), torch.tensor([1.5]))
        >>> print(markdown({"factorised": {4: text}}, text))
        | nats per token under the judge (entropy) by steps per block | 4 |
        |---|---|
        | real text | 1.500 (0.693) |
        | factorised | 1.500 (0.693) |
    """
    steps = list(next(iter(found.values())))
    real = {} if reference is None else {REAL: dict.fromkeys(steps, reference)}
    return in_columns(
        "nats per token under the judge (entropy) by steps per block",
        [str(count) for count in steps],
        {name: [str(text) for text in row.values()] for name, row in (real | dict(found)).items()},
    )


def half_the_steps(found: Ladder, against: str = FACTORISED) -> str:
    """Every decoder against another one that has twice its steps, in Markdown.

    Nats per token in which it differs from the other's, with the standard error of the mean over
    prompts, and in brackets by how much its entropy differs. Negative nats are the better ones, as
    far as entropy is the same.

    Args:
        found: by decoder and steps per block; the same steps for all.
        against: the other one.

    Raises:
        GenerationError: if there is no such decoder, or no number of steps is twice another one.

    Examples:
        >>> text = Written(torch.tensor([[0, 1], [1, 0]]), torch.tensor([1.5, 2.5]))
        >>> print(half_the_steps({"factorised": {1: text, 2: text}, "ours": {1: text, 2: text}}))
        | nats over factorised (entropy) by steps for steps | 1 for 2 |
        |---|---|
        | ours | +0.000 ± 0.000 (+0.0 %) |
    """
    other = found.get(against, {})
    halves = [count for count in other if 2 * count in other]
    if not halves:
        raise GenerationError(f"{against!r} has steps {list(other)}: none is twice another one")
    return in_columns(
        f"nats over {against} (entropy) by steps for steps",
        [f"{count} for {2 * count}" for count in halves],
        {
            name: [_difference(row[count], other[2 * count]) for count in halves]
            for name, row in found.items()
            if name != against
        },
    )


def _difference(ours: Written, other: Written) -> str:
    nats = ours.by_prompt - other.by_prompt
    error = float(nats.std(correction=min(1, len(nats) - 1))) / len(nats) ** 0.5
    entropy = 100 * (ours.entropy / other.entropy - 1)
    return f"{float(nats.mean()):+.3f} ± {error:.3f} ({entropy:+.1f} %)"


def in_columns(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """A table in Markdown: its cells by row, below a title and the names of columns."""
    lines = [f"| {title} | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    return "\n".join(lines + [f"| {name} | {' | '.join(row)} |" for name, row in rows.items()])


def samples(found: Ladder, decode: Callable[[Tensor], str]) -> str:
    """What every decoder wrote after the prompt in the middle, by steps, in Markdown.

    Args:
        found: by decoder and steps per block.
        decode: tokens [T] to text.

    Examples:
        >>> text = Written(torch.tensor([[0, 1]]), torch.tensor([1.5]))
        >>> samples({"factorised": {4: text}}, lambda tokens: "ab|"[: len(tokens)])
        '- 4, factorised: `ab`'
    """
    return "\n".join(
        f"- {count}, {name}: `{' '.join(decode(_middle(row[count].tokens)).split())}`"
        for count in next(iter(found.values()))
        for name, row in found.items()
    )


def _middle(rows: Tensor) -> Tensor:
    return rows[len(rows) // 2]


def draw_few_step(
    path: str | os.PathLike[str], found: Ladder, reference: Written | None = None
) -> None:
    """Draw nats and entropy by steps side by side; an old file is replaced when the PNG is done.

    Args:
        path: where to.
        found: by decoder and steps per block; the same steps for all.
        reference: what really follows the prompts: a line, and a band of 2 % around its entropy.

    Raises:
        OSError: if the file cannot be written.
    """
    figure = Figure(figsize=(12.0, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, (name, row) in enumerate(found.items()):
        colour = "black" if name == FACTORISED else f"C{number}"
        look = {"label": name, "color": colour, "marker": "o"}
        left.plot(list(row), [text.nats for text in row.values()], **look)
        right.plot(list(row), [text.entropy for text in row.values()], **look)
    steps = list(next(iter(found.values())))
    _label(left, "nats per token under the judge", steps)
    _label(right, "entropy of the tokens (nats)", steps)
    if reference is not None:
        left.axhline(reference.nats, color="grey", linestyle=":", label=REAL)
        right.axhline(reference.entropy, color="grey", linestyle=":")
        right.axhspan(0.98 * reference.entropy, 1.02 * reference.entropy, color="0.93")
    figure.legend(*left.get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    save_figure(figure, path)


def _label(axes: Axes, name: str, steps: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(steps, [str(count) for count in steps])
    axes.set_xlabel("steps per block")
    axes.set_ylabel(name)
