"""How much of the gap between one-step and sequential decoding a coupling closes.

Everything is measured on the same blocks with the same masks, in nats per masked token.
Legend: N blocks, C context length, L positions of a block, V tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import torch
from torch import Tensor
from tqdm import tqdm

from pcflow import CompiledCircuit, Evidence
from pcflow_diffusion.backbones import Backbone
from pcflow_diffusion.head import CircuitHead
from pcflow_diffusion.objective import mask_exactly, masked_diffusion_loss

Table = Mapping[str, Sequence[float]]
"""By method, nats per masked token at every mask ratio."""

RATIOS = [0.15, 0.3, 0.5, 0.7, 0.85, 1.0]
FACTORISED, SEQUENTIAL, CIRCUIT = "factorised, one step", "sequential, any order", "circuit alone"


@dataclass(frozen=True)
class Examples:
    """Blocks with masks, and what the backbone says of them.

    Attributes:
        rows: context and block, [N, C + L].
        x: blocks with masks, [N, L].
        x0: the blocks, [N, L].
        logits: the backbone's on the block, [N, L, V].
        mask_token_id: the mask.
    """

    rows: Tensor
    x: Tensor
    x0: Tensor
    logits: Tensor
    mask_token_id: int

    @property
    def masked(self) -> Tensor:
        """Which positions are masked, [N, L]."""
        return self.x == self.mask_token_id


@torch.no_grad()
def backbone_logits(backbone: Backbone, context: Tensor, x: Tensor, batch_size: int = 64) -> Tensor:
    """The backbone's logits [N, L, V] on blocks after their contexts, a batch at a time.

    Args:
        backbone: maps tokens to logits.
        context: visible tokens, [N, C].
        x: blocks with masks, [N, L].
        batch_size: rows per call.

    Examples:
        >>> zeros = torch.zeros(3, 2, dtype=torch.long)
        >>> backbone_logits(lambda tokens: torch.zeros(*tokens.shape, 5), zeros, zeros).shape
        torch.Size([3, 2, 5])
    """
    shown = torch.cat([context, x], dim=1).split(batch_size)
    return torch.cat([backbone(tokens)[:, -x.shape[1] :] for tokens in shown])


def make_examples(
    backbone: Backbone,
    rows: Tensor,
    block: int,
    ratio: float | Tensor,
    mask_token_id: int,
    generator: torch.Generator | None = None,
) -> Examples:
    """Mask exactly `ratio` of the last `block` tokens of every row and ask the backbone.

    Args:
        backbone: maps tokens to logits.
        rows: context and block, [N, C + L].
        block: L.
        ratio: share to mask, one number or one per row.
        mask_token_id: the mask.
        generator: source of the masks.

    Raises:
        ShapeMismatch: if `rows` is not a matrix; RatioOutOfRange: if a ratio is not in [0, 1].
    """
    context, x0 = rows[:, :-block], rows[:, -block:]
    x = mask_exactly(x0, ratio, mask_token_id, generator)
    return Examples(rows, x, x0, backbone_logits(backbone, context, x), mask_token_id)


def factorised_nats(examples: Examples) -> float:
    """Nats per masked token if every token is drawn independently."""
    loss = masked_diffusion_loss(examples.logits, examples.x, examples.x0, examples.mask_token_id)
    return float(loss.sum() / examples.masked.sum())


def sequential_nats(
    backbone: Backbone,
    examples: Examples,
    generator: torch.Generator | None = None,
    left_to_right: bool = False,
) -> float:
    """Nats per masked token of the backbone's own joint: tokens are revealed one by one.

    The order is random, or from left to right, and every step costs one call of the backbone.
    """
    x, context = examples.x.clone(), examples.rows[:, : -examples.x.shape[1]]
    turn = torch.rand(x.shape, generator=generator, device=x.device)
    if left_to_right:
        turn = torch.linspace(0.0, 1.0, x.shape[1], device=x.device).expand_as(turn)
    order = turn.masked_fill(~examples.masked, 2.0).argsort(dim=1)
    total = 0.0
    for place in range(int(examples.masked.sum(dim=1).max())):
        position = order[:, place : place + 1]  # [N, 1]
        still = x.gather(1, position).squeeze(1) == examples.mask_token_id
        log_m = backbone_logits(backbone, context, x).log_softmax(dim=-1)
        token = examples.x0.gather(1, position)
        nats = -log_m.gather(1, position.unsqueeze(-1).expand(-1, -1, log_m.shape[-1]))
        total += float(nats.squeeze(1).gather(1, token).squeeze(1)[still].sum())
        x.scatter_(1, position, token)
    return total / int(examples.masked.sum())


@torch.no_grad()
def circuit_nats(model: CompiledCircuit, examples: Examples) -> float:
    """Nats per masked token of the circuit alone, given the visible tokens of the block."""
    values = examples.x.masked_fill(examples.masked, 0)
    visible = Evidence(values, examples.masked)
    joint = model.log_prob(examples.x0) - model.log_prob(visible)
    return float(-joint.sum() / examples.masked.sum())


@torch.no_grad()
def coupled_nats(head: CircuitHead, examples: Examples) -> float:
    """Nats per masked token of the coupled joint, in one step."""
    joint = head.log_prob(examples.logits, examples.x, examples.x0)
    return float(-joint.sum() / examples.masked.sum())


def gap_closed(factorised: float, sequential: float, coupled: float) -> float:
    """The share of the gap between factorised and sequential decoding that a coupling closes.

    Examples:
        >>> gap_closed(factorised=3.0, sequential=2.0, coupled=2.25)
        0.75
    """
    return (factorised - coupled) / (factorised - sequential)


def gap_table(
    backbone: Backbone,
    circuit: CompiledCircuit,
    heads: Mapping[str, CircuitHead],
    rows: Tensor,
    ratios: Sequence[float],
    *,
    generator: torch.Generator,
    progress: bool = True,
) -> dict[str, list[float]]:
    """Nats per masked token of every method at every mask ratio, on the same masks.

    Args:
        backbone: maps tokens to logits.
        circuit: the circuit to show alone.
        heads: the couplings by name.
        rows: context and block, [N, C + L]; the block is as long as the circuit. At low ratios
            every row is used several times with other masks, so that figures are equally sure.
        ratios: shares of the block to mask.
        generator: source of masks and orders.
        progress: whether to show progress bars.

    Returns:
        By method, one number per ratio.
    """
    block, mask = circuit.num_variables, next(iter(heads.values())).mask_token_id
    table: dict[str, list[float]] = {n: [] for n in (FACTORISED, SEQUENTIAL, CIRCUIT, *heads)}
    with tqdm(total=len(ratios) * len(table), disable=not progress, unit="cell") as bar:
        for ratio in ratios:
            bar.set_description(f"{ratio:.0%} masked")
            again = rows.repeat(max(1, round(0.6 / ratio)), 1)  # few masks in a block: more blocks
            examples = make_examples(backbone, again, block, ratio, mask, generator)
            for name in table:
                table[name].append(_nats(name, backbone, circuit, heads, examples, generator))
                bar.update()
    return table


def _nats(
    method: str,
    backbone: Backbone,
    circuit: CompiledCircuit,
    heads: Mapping[str, CircuitHead],
    examples: Examples,
    generator: torch.Generator,
) -> float:
    """One cell of the table."""
    if method == FACTORISED:
        return factorised_nats(examples)
    if method == SEQUENTIAL:
        return sequential_nats(backbone, examples, generator)
    if method == CIRCUIT:
        return circuit_nats(circuit, examples)
    return coupled_nats(heads[method], examples)


def mean_and_spread(runs: Sequence[Table]) -> tuple[Table, Table | None]:
    """The mean of tables with the same cells, and their standard deviation if there are several.

    Examples:
        >>> mean_and_spread([{"ours": [1.0]}, {"ours": [3.0]}])
        ({'ours': [2.0]}, {'ours': [1.4142135623730951]})
    """
    cells = {name: list(zip(*(run[name] for run in runs), strict=True)) for name in runs[0]}
    means = {name: [mean(values) for values in row] for name, row in cells.items()}
    if len(runs) == 1:
        return means, None
    return means, {name: [stdev(values) for values in row] for name, row in cells.items()}


def markdown(table: Table, ratios: Sequence[float], spread: Table | None = None) -> str:
    """The table in Markdown: nats, their spread if given, in brackets the share of the gap closed.

    Examples:
        >>> print(markdown({FACTORISED: [3.0], SEQUENTIAL: [2.0], "ours": [2.25]}, [0.5]))
        | nats per masked token (share of the gap closed) | 50 % |
        |---|---|
        | factorised, one step | 3.000 |
        | sequential, any order | 2.000 |
        | ours | 2.250 (75 %) |
    """
    return "\n".join(_lines(table, ratios, spread))


def _lines(table: Table, ratios: Sequence[float], spread: Table | None) -> Iterator[str]:
    percents = " | ".join(f"{ratio * 100:.0f} %" for ratio in ratios)
    yield f"| nats per masked token (share of the gap closed) | {percents} |"
    yield "|---|" + "---|" * len(ratios)
    for name, nats in table.items():
        cells = [f"{value:.3f}" for value in nats]
        if spread is not None:
            cells = [f"{c} ± {s:.3f}" for c, s in zip(cells, spread[name], strict=True)]
        if name not in (FACTORISED, SEQUENTIAL):
            shares = map(gap_closed, table[FACTORISED], table[SEQUENTIAL], nats)
            cells = [f"{c} ({s * 100:.0f} %)" for c, s in zip(cells, shares, strict=True)]
        yield f"| {name} | {' | '.join(cells)} |"
