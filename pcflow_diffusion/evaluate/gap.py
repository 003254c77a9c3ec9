"""How much of the gap between one-step and sequential decoding a coupling closes.

Everything is measured on the same blocks with the same masks, in nats per masked token.
Legend: N blocks, C context length, L positions of a block, V tokens, M any number of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from statistics import mean, stdev

import torch
from torch import Tensor

from pcflow import CompiledCircuit, Evidence
from pcflow_diffusion.checks import check_tokens
from pcflow_diffusion.errors import RatioOutOfRange
from pcflow_diffusion.head import CircuitHead, without
from pcflow_diffusion.models import Backbone, mask_exactly
from pcflow_diffusion.models.progress import bar
from pcflow_diffusion.train import Blocks, block_logits

Table = Mapping[str, Sequence[float]]
"""By method, nats per masked token at every mask ratio."""

RATIOS = [0.15, 0.3, 0.5, 0.7, 0.85, 1.0]
BATCH = 64  # rows per call of the backbone
NO_GAP = 1e-6  # nats per token: less is rounding
FACTORISED, SEQUENTIAL, CIRCUIT = "factorised, one step", "sequential, any order", "circuit alone"


@dataclass(frozen=True, eq=False)
class Examples(Blocks):
    """Blocks with masks and what the backbone says of them, after their contexts.

    Attributes:
        rows: context and block, [N, C + L].
        mask_token_id: the mask.

    Examples:
        >>> x0 = torch.tensor([[1, 2]])
        >>> x = torch.tensor([[1, 5]])
        >>> Examples(torch.zeros(1, 2, 5), x, x0, rows=x0, mask_token_id=5).masked
        tensor([[False,  True]])
    """

    rows: Tensor
    mask_token_id: int

    @property
    def masked(self) -> Tensor:
        """Which positions are masked, [N, L]."""
        return self.x == self.mask_token_id


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
        block: how many tokens a block has, L.
        ratio: share to mask, one number or one per row.
        mask_token_id: the mask.
        generator: source of the masks.

    Returns:
        Tokens, tokens with masks, and logits, of the last positions.

    Raises:
        ShapeMismatch: if `rows` is not a matrix.
        RatioOutOfRange: if a ratio is not in [0, 1].

    Examples:
        >>> backbone = lambda tokens: torch.zeros(*tokens.shape, 5)
        >>> rows = torch.randint(5, (3, 10))
        >>> found = make_examples(backbone, rows, block=4, ratio=0.5, mask_token_id=5)
        >>> found.masked.sum(dim=1), found.logits.shape
        (tensor([2, 2, 2]), torch.Size([3, 4, 5]))
    """
    x0 = rows[:, -block:]
    x = mask_exactly(x0, ratio, mask_token_id, generator)
    return Examples(_in_parts(backbone, rows, x), x, x0, rows, mask_token_id)


@torch.no_grad()
def _in_parts(backbone: Backbone, rows: Tensor, x: Tensor) -> Tensor:
    """The backbone's logits on blocks [N, L, V], a batch at a time."""
    parts = zip(rows.split(BATCH), x.split(BATCH), strict=True)
    return torch.cat([block_logits(backbone, *part) for part in parts])


def _token_nats(logits: Tensor, tokens: Tensor, mask_token_id: int) -> Tensor:
    """-log m [M] of tokens [M] by logits [M, V], in single precision or above.

    As in a `CircuitHead`, no mass is left on the mask where it is one of the V tokens.
    """
    check_tokens("rows", tokens, logits.shape[-1])
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logits = without(logits, [mask_token_id])
    return -logits.log_softmax(dim=-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def factorised_nats(examples: Examples) -> float:
    """Nats per masked token if every token is drawn independently.

    Raises:
        TokenOutOfRange: if a masked token is outside the vocabulary of the logits.
    """
    masked = examples.masked
    assert isinstance(examples.logits, Tensor)  # `examples_of` lists no tokens
    nats = _token_nats(examples.logits[masked], examples.x0[masked], examples.mask_token_id)
    return float(nats.double().mean())


def sequential_nats(
    backbone: Backbone, examples: Examples, generator: torch.Generator | None = None
) -> float:
    """Nats per masked token of the backbone's own joint: tokens are revealed one by one.

    The order is random, and every step costs one call of the backbone.

    Args:
        backbone: maps tokens to logits.
        examples: what is masked.
        generator: of the orders; torch's global one by default.

    Returns:
        Nats per masked token.

    Raises:
        TokenOutOfRange: if a masked token is outside the vocabulary of the logits.

    Examples:
        >>> backbone = lambda tokens: torch.zeros(*tokens.shape, 5)
        >>> found = make_examples(backbone, torch.randint(5, (3, 8)), 4, 0.5, mask_token_id=5)
        >>> round(sequential_nats(backbone, found), 4)  # it says nothing: log 5
        1.6094
    """
    x = examples.x.clone()
    turn = torch.rand(x.shape, generator=generator, device=x.device)
    order = turn.masked_fill(~examples.masked, 2.0).argsort(dim=1)
    total = 0.0
    for place in range(int(examples.masked.sum(dim=1).max())):
        position = order[:, place : place + 1]  # [N, 1]
        still = x.gather(1, position).squeeze(1) == examples.mask_token_id
        logits = _in_parts(backbone, examples.rows, x)[still, position[still, 0]]  # [M, V]
        token = examples.x0.gather(1, position)
        nats = _token_nats(logits, token[still, 0], examples.mask_token_id)
        total += float(nats.double().sum())
        x.scatter_(1, position, token)
    return total / int(examples.masked.sum())


@dataclass(frozen=True, eq=False)
class LeftToRight:
    """A backbone as a reader of text: its own joint, tokens revealed from left to right.

    Args:
        backbone: maps tokens with masks to logits.
        mask_token_id: the mask.

    Examples:
        >>> reader = LeftToRight(lambda tokens: torch.zeros(*tokens.shape, 5), mask_token_id=5)
        >>> reader.nats(torch.zeros(1, 4, dtype=torch.long), last=2)  # log 5
        tensor([[1.6094, 1.6094]])
    """

    backbone: Backbone
    mask_token_id: int

    def nats(self, rows: Tensor, last: int) -> Tensor:
        """Nats [N, last] of each of the last tokens of every row [N, n], given those before it.

        Raises:
            TokenOutOfRange: if one of them is outside the vocabulary of the logits.
        """
        x0, found = rows[:, -last:], []
        x = torch.full_like(x0, self.mask_token_id)
        for place in range(last):
            logits = _in_parts(self.backbone, rows, x)[:, place]
            found.append(_token_nats(logits, x0[:, place], self.mask_token_id))
            x[:, place] = x0[:, place]
        return torch.stack(found, dim=1)


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

    Not a number where there is no gap: where the two differ by less than 1e-6 nats, as where one
    token is masked.

    Args:
        factorised: nats of independent draws.
        sequential: nats of the backbone's own joint.
        coupled: nats of what is judged.

    Returns:
        The share: 0 is as factorised, 1 as sequential.

    Examples:
        >>> gap_closed(factorised=3.0, sequential=2.0, coupled=2.25)
        0.75
    """
    if abs(factorised - sequential) < NO_GAP:
        return nan
    return (factorised - coupled) / (factorised - sequential)


def gap_table(
    backbone: Backbone,
    circuit: CompiledCircuit,
    heads: Mapping[str, CircuitHead],
    rows: Tensor,
    ratios: Sequence[float],
    *,
    generator: torch.Generator,
    progress: bool | None = None,
) -> dict[str, list[float]]:
    """Nats per masked token of every method at every mask ratio, on the same masks.

    Args:
        backbone: maps tokens to logits.
        circuit: the circuit to show alone.
        heads: the couplings by name.
        rows: context and block, [N, C + L]; the block is as long as the circuit. At low ratios
            every row is used several times with other masks, so that figures are equally sure.
        ratios: shares of the block to mask, each at least one token.
        generator: source of masks and orders.
        progress: whether to show a bar; by default if standard error is a terminal.

    Returns:
        By method, one number per ratio.

    Raises:
        RatioOutOfRange: if a ratio masks no token, or more than there are.

    Examples:
        >>> import pcflow as pf
        >>> circuit = pf.compile(pf.hmm(4, 2, pf.Categorical(5)))
        >>> heads = {"product": CircuitHead(circuit, mask_token_id=5, coupling="product")}
        >>> backbone = lambda tokens: torch.zeros(*tokens.shape, 5)
        >>> rows, seed = torch.randint(5, (2, 6)), torch.Generator().manual_seed(0)
        >>> list(gap_table(backbone, circuit, heads, rows, ratios=[1.0], generator=seed))
        ['factorised, one step', 'sequential, any order', 'circuit alone', 'product']
    """
    block, mask = circuit.num_variables, next(iter(heads.values())).mask_token_id
    _check(ratios, block)
    table: dict[str, list[float]] = {n: [] for n in (FACTORISED, SEQUENTIAL, CIRCUIT, *heads)}
    with bar(None, progress, total=len(ratios) * len(table), unit="cell") as told:
        for ratio in ratios:
            told.set_description(f"{ratio:.0%} masked")
            again = rows.repeat(max(1, round(0.6 / ratio)), 1)  # few masks in a block: more blocks
            examples = make_examples(backbone, again, block, ratio, mask, generator)
            for name in table:
                table[name].append(_nats(name, backbone, circuit, heads, examples, generator))
                told.update()
    return table


def _check(ratios: Sequence[float], block: int) -> None:
    counts = torch.as_tensor(ratios).mul(block).round().tolist()  # as `mask_exactly` counts
    for ratio, count in zip(ratios, counts, strict=True):
        if not (0 < ratio <= 1 and count >= 1):
            raise RatioOutOfRange(f"ratio {ratio} masks {count:.0f} of {block} tokens")


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

    Args:
        runs: tables of equal methods and ratios.

    Returns:
        The mean, and the standard deviation, None of a single run.

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

    A dash stands for the share where there is no gap (see `gap_closed`).

    Args:
        table: nats by method, one number per ratio.
        ratios: shares of tokens that are masked.
        spread: standard deviations, as `table`.

    Returns:
        The lines.

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
            cells = [f"{c} ({_percent(s)})" for c, s in zip(cells, shares, strict=True)]
        yield f"| {name} | {' | '.join(cells)} |"


def _percent(share: float) -> str:
    return "\N{EN DASH}" if isnan(share) else f"{share * 100:.0f} %"
