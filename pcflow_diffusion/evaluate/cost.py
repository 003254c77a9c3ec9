"""What the circuit costs: its draws over the backbone's step, and over what the machine must do.

    python -m pcflow_diffusion.evaluate cost [--top-k 256] [--blocks 64] [--threads 2]

Random parameters throughout: time does not depend on them. All sides of a comparison run by turns
in one process, so that a busy moment hits all alike; figures are medians.

Legend: L positions of the circuit, V tokens, K states, k listed tokens, W width of the backbone.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

import pcflow as pf
from pcflow_diffusion.checks import Command, as_count
from pcflow_diffusion.evaluate.figure import save_figure
from pcflow_diffusion.evaluate.learning_cost import learning_table, measure_learning
from pcflow_diffusion.evaluate.timing import Run, interleaved, machine_sides, rates_of
from pcflow_diffusion.head import CircuitHead, Coupling, LogLinear, Marginals, Projection, TopK
from pcflow_diffusion.models import Denoiser, DenoiserConfig

COUPLINGS: dict[str, Coupling] = {
    "product": LogLinear(1.0, 0.0),
    "log-linear": LogLinear(0.8, 0.5),
    "projection, 2 sweeps": Projection(),
}
IN_ALL = "backbone, vocabulary counted"
TRUNK = "backbone, vocabulary neither counted nor run"
WITH_HEAD = "backbone, vocabulary run but not counted"


@dataclass(frozen=True)
class Setting:
    """Sizes of what is timed.

    Attributes:
        length: positions of the circuit, L.
        vocabulary: tokens, V.
        states: of the HMM, K.
        top_k: tokens that the head considers per position, beside what it does by default and all.
        seen: positions that the backbone sees.
        parameters: of the backbone.
        repeats: turns; two more warm up.
        bfloat16: whether draws read tables of half the bytes.
    """

    length: int = 32
    vocabulary: int = 126_464
    states: int = 1024
    top_k: int = 256
    seen: int = 256
    parameters: int = 100_000_000
    repeats: int = 7
    bfloat16: bool = False


@dataclass(frozen=True)
class HeadCost:
    """Median seconds of everything, and the machine's rates.

    Attributes:
        setting: the sizes.
        backbones: a forward pass, by what of the vocabulary is counted and run.
        counted: the parameters of each that are counted.
        draws: one coupled sample, by coupling and by `top_k`.
        bandwidth: bytes per second of adding up a tensor as large as the emission table.
        flops: floating-point operations per second of a large matrix product.
        listed: tokens that are listed per position by default, on average.
    """

    setting: Setting
    backbones: Mapping[str, float]
    counted: Mapping[str, int]
    draws: Mapping[tuple[str, TopK], float]
    bandwidth: float
    flops: float
    listed: float

    @property
    def step(self) -> float:
        """Seconds of the quickest backbone."""
        return min(self.backbones.values())

    def floor(self, top_k: TopK) -> float:
        """Seconds to read the table, or its listed rows, once; or to multiply by it if longer."""
        size = self.setting
        listed = self.listed if top_k == "auto" else top_k or size.vocabulary
        used = size.length * listed * size.states
        read = used if top_k is not None else size.vocabulary * size.states
        return max((4 - 2 * size.bfloat16) * read / self.bandwidth, 2 * used / self.flops)


@dataclass(frozen=True)
class AnyOrderCost:
    """Median seconds of drawing a block token by token, and of what it cannot do without.

    Attributes:
        states: how many states the chain has, K.
        vocabulary: how many tokens there are, V.
        top_k: listed tokens per position, None for all.
        any_order: seconds to draw the block.
        latent: seconds to draw it all at once.
        queries: seconds of the conditionals after the first, second, ... and last but one token.
    """

    states: int
    vocabulary: int
    top_k: int | None
    any_order: float
    latent: float
    queries: float

    @property
    def ratio(self) -> float:
        """Any order over one draw and the conditionals that it needs."""
        return self.any_order / (self.latent + self.queries)


def denoiser_shape(parameters: int, vocabulary: int, in_all: bool) -> DenoiserConfig:
    """The shape of a denoiser with about so many parameters, its vocabulary counted or not.

    Its depth is about a 55th of its width, as in models of this size. Where embedding and output
    layer are counted they take at most 85 %, which narrows it.

    Examples:
        >>> denoiser_shape(100_000_000, 126_464, in_all=False).width
        768
    """
    width = (55 * parameters / 12) ** (1 / 3)
    if in_all:
        width = min(width, 0.85 * parameters / (2 * vocabulary))
    width = max(64, int(width / 64 + (0 if in_all else 0.5)) * 64)
    left = parameters - (2 * vocabulary * width if in_all else 0)
    depth = max(1, round(left / (12 * width**2)))
    return DenoiserConfig(vocabulary, width, depth, heads=width // 64)


@torch.no_grad()
def measure_head(setting: Setting) -> HeadCost:
    """Time backbones, coupled samples and the machine's rates, by turns.

    Args:
        setting: the sizes; with the defaults it takes some 4 GB and a few minutes.

    Returns:
        The times, in seconds.

    Examples:
        >>> measure_head(Setting(vocabulary=32_000)).step  # doctest: +SKIP
    """
    soft = torch.bfloat16 if setting.bfloat16 else None
    model = _hmm(setting.length, setting.states, setting.vocabulary, soft)
    logits, x = _question(setting.length, setting.vocabulary)
    backbones, tokens = _backbones(setting), torch.zeros(1, setting.seen).long()
    sides: dict[str, Run] = {name: partial(b, tokens) for name, b in backbones.items()}
    kinds: tuple[TopK, ...] = (None, setting.top_k, "auto")
    draws = {(name, k): f"{name}, {k}" for name in COUPLINGS for k in kinds}
    for (name, top_k), side in draws.items():
        head = CircuitHead(model, setting.vocabulary, COUPLINGS[name], top_k)
        sides[side] = partial(head.sample, logits, x)
    table = setting.vocabulary, setting.states
    found = interleaved(sides | machine_sides(*table), setting.repeats)
    return HeadCost(
        setting,
        {name: found[name] for name in backbones},
        {name: _counted(name, backbone) for name, backbone in backbones.items()},
        {key: found[side] for key, side in draws.items()},
        *rates_of(found, *table),
        _listed(logits, x),
    )


@torch.no_grad()
def measure_any_order(
    length: int, states: int, vocabulary: int, top_k: int | None, repeats: int = 3
) -> AnyOrderCost:
    """Time drawing a block in any order, at once, and the conditional queries in between, by turns.

    Args:
        length: positions of the block, L.
        states: of the HMM, K.
        vocabulary: tokens, V.
        top_k: listed tokens per position; None for all.
        repeats: turns; two more warm up.

    Returns:
        The times, in seconds.

    Examples:
        >>> measure_any_order(length=2, states=2, vocabulary=5, top_k=None, repeats=1).states
        2
    """
    model = _hmm(length, states, vocabulary)
    logits, x = _question(length, vocabulary)
    head = CircuitHead(model, vocabulary, "product", top_k)
    coupled = head.couple(logits, x)
    tokens = head.sample(logits, x).tokens

    def queries() -> None:
        for known in range(1, length):
            missing = (torch.arange(length) >= known).unsqueeze(0)
            now = pf.Evidence(tokens, missing, coupled.log_potentials, coupled.categories)
            model.marginals(now, coupled.categories)

    found = interleaved(
        {
            "any order": lambda: head.sample(logits, x, order="any_order"),
            "latent": lambda: head.sample(logits, x),
            "queries": queries,
        },
        repeats,
    )
    return AnyOrderCost(states, vocabulary, top_k, *found.values())


def head_table(cost: HeadCost) -> str:
    """Markdown: milliseconds of every draw, its share of the quickest backbone, and the floor."""
    size = cost.setting
    lines = [
        f"| {size.length} positions, {size.vocabulary:,} tokens, {size.states:,} states "
        "| ms | of the quickest backbone | over the floor |",
        "|---|---|---|---|",
    ]
    for name, seconds in cost.backbones.items():
        counted = cost.counted[name] / 1e6
        lines.append(
            f"| {name}: {counted:.0f} M, {size.seen} positions | {1e3 * seconds:.1f} | | |"
        )
    for (coupling, top_k), seconds in cost.draws.items():
        over = seconds / cost.floor(top_k)
        lines.append(
            f"| {coupling}, {_tokens(top_k)} | {1e3 * seconds:.1f} | {seconds / cost.step:.1%} "
            f"| {over:.1f} x |"
        )
    return "\n".join(lines)


def any_order_table(costs: Sequence[AnyOrderCost]) -> str:
    """Markdown: any order over one draw at once and the conditional queries that it needs.

    Examples:
        >>> print(any_order_table([AnyOrderCost(256, 1000, None, 0.9, 0.1, 0.65)]))
        | one block in any order | ms | at once, ms | conditional queries, ms | ratio |
        |---|---|---|---|---|
        | 256 states, 1,000 tokens, all tokens | 900 | 100 | 650 | 1.20 |
    """
    lines = [
        "| one block in any order | ms | at once, ms | conditional queries, ms | ratio |",
        "|---|---|---|---|---|",
    ]
    for cost in costs:
        what = f"{cost.states:,} states, {cost.vocabulary:,} tokens, {_tokens(cost.top_k)}"
        times = [f"{1e3 * t:.0f}" for t in (cost.any_order, cost.latent, cost.queries)]
        lines.append(f"| {what} | {' | '.join(times)} | {cost.ratio:.2f} |")
    return "\n".join(lines)


def draw_cost(path: str | os.PathLike[str], cost: HeadCost) -> None:
    """Draw the times as bars, with 5 % of the backbone; an old file is replaced when it is done.

    Args:
        path: where to.
        cost: what was measured.

    Raises:
        OSError: if the file cannot be written.
    """
    figure = Figure(figsize=(8.5, 4.8), layout="constrained")
    axes = figure.subplots()
    bars = {name: (seconds, "grey") for name, seconds in cost.backbones.items()}
    for (coupling, top_k), seconds in cost.draws.items():
        colour = "C0" if top_k is None else "C2" if top_k == "auto" else "C1"
        bars[f"{coupling}, {_tokens(top_k)}"] = (seconds, colour)
    names = list(bars)[::-1]
    axes.barh(names, [1e3 * bars[n][0] for n in names], color=[bars[n][1] for n in names])
    axes.axvline(50 * cost.step, color="black", linestyle=":", label="5 % of the quickest backbone")
    axes.axvline(2e3 * cost.floor(None), color="C0", linestyle="--", label="twice the floor, all")
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds")
    axes.set_title("One backbone step, and one coupled sample")
    axes.legend(fontsize="small", loc="lower right")
    save_figure(figure, path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, time everything, print the tables, draw the picture."""
    given = _parse(arguments)
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    setting = Setting(
        given.length,
        given.vocabulary,
        given.states,
        given.top_k,
        given.seen,
        given.parameters,
        given.repeats,
        given.bfloat16,
    )
    cost = measure_head(setting)
    threads = torch.get_num_threads()
    rates = f"{cost.bandwidth / 1e9:.0f} GB/s read, {cost.flops / 1e9:.0f} GFLOP/s"
    print(f"{threads} threads, {rates}.\n\n{head_table(cost)}\n", flush=True)
    sizes = [
        (states, *of)
        for states in sorted({min(256, given.states), given.states})
        for of in ((min(1000, given.vocabulary), None), (given.vocabulary, given.top_k))
    ]
    print(any_order_table([measure_any_order(given.length, *size) for size in sizes]), "\n")
    learning = given.length, min(256, given.states), given.vocabulary, given.top_k, given.blocks
    print(learning_table([measure_learning(*learning)]))
    draw_cost(given.out, cost)
    print(f"\nPicture: {given.out}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Command("pcflow_diffusion.evaluate cost", __doc__)
    size = Setting()
    parser.add_argument(
        "--length", type=as_count, default=size.length, help="positions (%(default)s)"
    )
    parser.add_argument(
        "--vocabulary", type=as_count, default=size.vocabulary, help="(%(default)s)"
    )
    parser.add_argument(
        "--states", type=as_count, default=size.states, help="of the HMM (%(default)s)"
    )
    parser.add_argument(
        "--top-k", type=as_count, default=size.top_k, help="listed tokens (%(default)s)"
    )
    parser.add_argument(
        "--blocks", type=as_count, default=64, help="of a step of learning (%(default)s)"
    )
    parser.add_argument(
        "--seen", type=as_count, default=size.seen, help="by the backbone (%(default)s)"
    )
    parser.add_argument(
        "--parameters", type=as_count, default=size.parameters, help="of the backbone"
    )
    parser.add_argument(
        "--repeats", type=as_count, default=size.repeats, help="turns (%(default)s)"
    )
    halves = "tables of half the bytes for potentials and lists (the first table)"
    parser.add_argument("--bfloat16", action="store_true", help=halves)
    parser.add_argument("--threads", type=as_count, help="of torch (default: as it is set)")
    parser.add_argument("--out", type=Path, default=Path("pcflow_cost.png"), help="(%(default)s)")
    return parser.parse_args(arguments)


def _hmm(
    length: int, states: int, vocabulary: int, soft: torch.dtype | None = None
) -> pf.CompiledCircuit:
    circuit = pf.hmm(length, states, pf.Categorical(vocabulary))
    return pf.compile(circuit, dtype=torch.float32, soft_dtype=soft)


def _question(length: int, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Logits [1, L, V] as peaked as a language model's, and masks [1, L]."""
    return 3.0 * torch.randn(1, length, vocabulary), torch.full((1, length), vocabulary)


def _listed(logits: Tensor, x: Tensor) -> float:
    """How many tokens a position lists by default, on average."""
    said = Marginals.of(logits, x, logits.shape[-1], top_k="auto")
    return float((said.log_m > -torch.inf).sum(dim=-1).float().mean())


def _backbones(setting: Setting) -> dict[str, Denoiser]:
    """One whose vocabulary is counted, and one whose is not: without it, and with it."""
    narrow = denoiser_shape(setting.parameters, setting.vocabulary, in_all=True)
    wide = denoiser_shape(setting.parameters, setting.vocabulary, in_all=False)
    shapes = {IN_ALL: narrow, TRUNK: replace(wide, vocabulary_size=1), WITH_HEAD: wide}
    return {name: Denoiser(shape).eval() for name, shape in shapes.items()}


def _counted(name: str, backbone: Denoiser) -> int:
    counted = backbone if name == IN_ALL else backbone.blocks
    return sum(parameter.numel() for parameter in counted.parameters())


def _tokens(top_k: TopK) -> str:
    return "all tokens" if top_k is None else "by default" if top_k == "auto" else f"top {top_k}"
