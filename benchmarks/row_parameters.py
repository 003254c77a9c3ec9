"""Parameters by row: a hidden Markov model whose every row is a model of its own, up and down.

    python benchmarks/row_parameters.py

As an output head for the next 16 tokens: a network would emit the logits of emissions and
transitions of every row. Three sides run by turns, forward and backward to these logits: pcflow; a
loop in bare torch, written for this chain; and `libcirkit`, whose layers are subclassed so that
they take their parameters by row (requirements.txt; its cells say so if it is not there). Each has
its logits in the layout it likes best. Values and gradients are compared first. Times are CPU
seconds on one thread, ratios those of the same turn; memory is the peak of a process of its own
above that with all inputs made. Beside them stands a floor: to read every logit of an emission and
take its exponential, and both ways to do so again and write a gradient as large into pages that
nobody wrote before. Prints Markdown.

Legend: B rows, L positions, K states, V categories.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from toy import TOY, arguments, is_installed, size

import pcflow as pf

ROWS, LENGTH = size(128, 3), size(16, 4)
STATES, CATEGORIES = size(64, 3), size(320, 5)
Side = tuple[list[Tensor], Callable[[], Tensor]]
"""The logits, and what computes the log-probabilities of them."""


def main() -> None:
    """Compare, measure and print."""
    parser = arguments(__doc__)
    parser.add_argument("--turns", type=int, default=size(9, 1), help="(%(default)s)")
    parser.add_argument("--peak", choices=SIDES, help="only the memory of one side")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.peak:
        print(peak(given.peak))
        return
    names = [name for name in SIDES if name != "libcirkit" or is_installed("cirkit")]
    sides = {name: SIDES[name]() for name in names}
    assert_equal(sides)
    print(f"{ROWS} rows, {LENGTH} positions, {STATES} states, {CATEGORIES} categories, float32\n")
    print("| | forward, ms | both ways, ms | times pcflow's | peak, MB |\n|---|---|---|---|---|")
    spent = measured(sides, given.turns)
    for name in SIDES:
        if name not in sides:
            print(f"| {name} | not installed | | | |")
            continue
        print(f"| {name} | {cells(spent[name], spent['pcflow'])} | {peak_of(name):.0f} |")
    print(f"| {FLOOR} | {cells(spent[FLOOR], spent['pcflow'])} | |")


def cells(spent: list[tuple[float, float]], ours: list[tuple[float, float]]) -> str:
    """Milliseconds forward, both ways, and the latter as a multiple of ours."""
    forward, both = (1e3 * median(times) for times in zip(*spent, strict=True))
    ratio = median(one[1] / mine[1] for one, mine in zip(spent, ours, strict=True))
    return f"{forward:.1f} | {both:.1f} | {ratio:.2f}"


def drawn() -> tuple[Tensor, list[Tensor], Tensor]:
    """Emissions [B, L, V, K], transitions [B, K, K] from the last one to the first, and values."""
    generator = torch.Generator().manual_seed(0)
    emissions = torch.randn(ROWS, LENGTH, CATEGORIES, STATES, generator=generator)
    sizes = [STATES] * (LENGTH - 1) + [1]
    weights = [torch.randn(ROWS, k, STATES, generator=generator) for k in sizes]
    return emissions, weights, torch.randint(CATEGORIES, (ROWS, LENGTH), generator=generator)


def of_pcflow() -> Side:
    """By names, as they are."""
    emissions, weights, x = drawn()
    chain = pf.hmm(LENGTH, STATES, pf.Categorical(CATEGORIES), homogeneous=False)
    model = pf.compile(chain, dtype=torch.float32).requires_grad_(False)
    logits = leaves(emissions, *(weight.unsqueeze(1) for weight in weights))
    parameters = dict(zip(model.parameter_shapes, logits, strict=True))
    return logits, lambda: model.log_prob(x, parameters)


def of_torch() -> Side:
    """A scaled forward pass from the last position, with categories side by side."""
    emissions, weights, x = drawn()
    emissions, *weights = leaves(emissions.transpose(2, 3).contiguous(), *weights)
    place = x[..., None, None].expand(-1, -1, STATES, 1)

    def log_prob() -> Tensor:
        # quicker than what is gathered less its log-sum-exp, by half
        logs = emissions.log_softmax(dim=-1).gather(-1, place).squeeze(-1)  # [B, L, K]
        total = torch.zeros(ROWS, 1)
        message = torch.ones(ROWS, STATES)
        for t, weight in zip(reversed(range(LENGTH)), weights, strict=True):
            said = logs[:, t] + message.log()
            peak = said.detach().amax(dim=-1, keepdim=True)
            total = total + peak
            units = (said - peak).exp().unsqueeze(-1)
            message = (weight.softmax(dim=-1) @ units).squeeze(-1)
        return (message.log() + total).squeeze(-1)

    return [emissions, *weights], log_prob


def of_cirkit() -> Side:
    """With folds first, as its layers read them."""
    from row_cirkit import RowHMM

    emissions, weights, x = drawn()
    chain = RowHMM(LENGTH, STATES, CATEGORIES)
    folds = emissions[:, chain.place(LENGTH)].permute(1, 0, 3, 2).contiguous()  # [L, B, K, V]
    logits = leaves(folds, *(weight.unsqueeze(0) for weight in weights))
    return logits, lambda: chain.log_prob(logits[0], logits[1:], x)


SIDES = {"pcflow": of_pcflow, "bare torch": of_torch, "libcirkit": of_cirkit}
FLOOR = "floor"


def floor(logits: Tensor) -> tuple[float, float]:
    """CPU seconds forward, and both ways, of what no side can leave out; row by row, in a cache."""
    began, buffer = time.process_time(), torch.empty_like(logits[0])
    for row in logits:
        torch.exp(row, out=buffer)
    between, gradient = time.process_time(), torch.empty_like(logits)
    for row, flow in zip(logits, gradient, strict=True):
        torch.exp(row, out=flow)
    return between - began, time.process_time() - began


def leaves(*made: Tensor) -> list[Tensor]:
    """What a network would have emitted."""
    return [tensor.clone().requires_grad_() for tensor in made]


def assert_equal(sides: dict[str, Side]) -> None:
    """All say the same, of values and of gradients."""
    found = {}
    for name, (logits, log_prob) in sides.items():
        value = log_prob()
        grads = torch.autograd.grad(value.sum(), logits)
        found[name] = [value.detach(), *(g.double().norm() for g in grads)]
    for name, numbers in found.items():
        for mine, its in zip(found["pcflow"], numbers, strict=True):
            torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-4, msg=name)


def measured(sides: dict[str, Side], turns: int) -> dict[str, list[tuple[float, float]]]:
    """CPU seconds of every turn, forward and both ways."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in (*sides, FLOOR)}
    logits = sides["pcflow"][0][0].detach()
    for turn in range(turns + 1):
        least = floor(logits)
        if turn:
            spent[FLOOR].append(least)
        for name, side in sides.items():
            both = once(side)
            if turn:  # the first warms up
                spent[name].append(both)
    return spent


def once(side: Side) -> tuple[float, float]:
    """CPU seconds forward, and both ways."""
    logits, log_prob = side
    gc.collect()
    began = time.process_time()
    value = log_prob()
    between = time.process_time()
    torch.autograd.grad(value.sum(), logits)
    return between - began, time.process_time() - began


def peak_of(name: str) -> float:
    """Of another process."""
    command = [sys.executable, __file__, "--peak", name, *(["--toy"] if TOY else [])]
    return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def peak(name: str) -> float:
    """Megabytes above what the process held before, the first time; Linux says so."""
    side = SIDES[name]()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
    before = held("VmRSS")
    once(side)
    return held("VmHWM") - before


def held(field: str) -> float:
    """Megabytes of the process, now or at most."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = [line for line in status.splitlines() if line.startswith(field)]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
