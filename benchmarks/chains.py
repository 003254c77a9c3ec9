"""Hidden Markov models: scoring, EM, soft evidence and posteriors.

Peers: hmmlearn and pomegranate; a bare scaled loop in torch, which is what one writes by hand and
keeps nothing; and single matrix products.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from measure import Workload, agree, em_step, forward
from torch import Tensor
from toy import is_installed, size

import pcflow as pf

STATES, SYMBOLS, BATCH = size((256, 1000, 64), (4, 10, 8))
LENGTH, WIDE, TOKENS = size((32, 1024, 32_768), (4, 8, 64))  # a diffusion block
LONG = size(1024, 16)
LISTED = size(256, 4)


def workloads() -> dict[str, Callable[[], Workload]]:
    """Builders by name."""
    found: dict[str, Callable[[], Workload]] = {}
    for length, goal in ((LENGTH, 1 / 1.3), (LONG, None)):
        name = f"HMM {length} x {STATES} states x {SYMBOLS} symbols B={BATCH}: log_prob"
        found[name] = partial(against_loop, name, length, goal)
    name = f"HMM {LENGTH} x {STATES} states x {SYMBOLS} symbols B={BATCH}: log_prob "
    found[name] = partial(against_hmmlearn, name, 150.0)
    found[name + " "] = partial(against_pomegranate, name + " ")
    name = f"HMM {LENGTH} x {STATES} states x {SYMBOLS} symbols B={BATCH}: a step of EM"
    found[name] = partial(learning, name)
    for batch in (1, 8):
        for share, goal in ((1.0, 1 / 1.4), (0.5, None)):
            name = _soft_name(batch, share) + "log Z"
            found[name] = partial(soft, name, batch, share, goal if batch == 1 else None)
    name = _soft_name(1, 1.0) + "posteriors"
    found[name] = partial(posteriors, name)
    name = _soft_name(1, 0.5) + "log Z "
    found[name] = partial(half, name)
    name = _soft_name(1, 1.0) + "log Z, bfloat16 table"
    found[name] = partial(soft, name, 1, 1.0, 1.0, torch.bfloat16)
    name = _soft_name(1, 1.0) + f"log Z of the top {LISTED}"
    found[name] = partial(listed, name)
    return found


def _soft_name(batch: int, share: float) -> str:
    masked = "all masked" if share == 1.0 else f"{share:.0%} masked"
    return f"HMM {LENGTH} x {WIDE:,} states x {TOKENS:,} tokens B={batch}, soft, {masked}: "


def against_loop(name: str, length: int, goal: float | None) -> Workload:
    """The loop keeps one vector per row and normalised tables, as pcflow does."""
    model, start, move, emit = _hmm(length)
    x = torch.randint(SYMBOLS, (BATCH, length))
    emit_by_symbol = emit.t().contiguous()  # [V, N]

    def loop() -> Tensor:
        symbols = x.t().contiguous()
        units, scale = emit_by_symbol[symbols[-1]], torch.zeros(BATCH)
        for t in range(length - 2, -1, -1):
            units = (units @ move.t()).mul_(emit_by_symbol[symbols[t]])
            peak = units.amax(dim=-1)
            units.div_(peak.unsqueeze(-1))
            scale.add_(peak.log_())
        return (units @ start).log() + scale

    agree(lambda: model.log_prob(x), loop)
    flops = 2.0 * length * BATCH * STATES**2
    ours = forward(lambda: model.log_prob(x))
    return Workload(name, "bare scaled loop", ours, forward(loop), flops, goal=goal)


def against_hmmlearn(name: str, goal: float) -> Workload:
    """Its score runs over rows one by one, in compiled code."""
    model, *parameters = _hmm(LENGTH)
    x = torch.randint(SYMBOLS, (BATCH, LENGTH))
    theirs = _hmmlearn(x, *parameters)
    agree(lambda: model.log_prob(x).sum(), theirs)
    ours, flops = forward(lambda: model.log_prob(x)), 2.0 * LENGTH * BATCH * STATES**2
    return Workload(name, "hmmlearn", ours, theirs, flops, goal=goal)


def against_pomegranate(name: str) -> Workload:
    """In log space, on torch."""
    model, *parameters = _hmm(LENGTH)
    x = torch.randint(SYMBOLS, (BATCH, LENGTH))
    ours, theirs = forward(lambda: model.log_prob(x)), None
    if is_installed("pomegranate"):
        peer, rows = _pomegranate(*parameters), x.unsqueeze(-1)
        theirs = forward(lambda: peer.log_probability(rows))
        # it counts ending among the transitions; here it is as likely in every state
        unlike = np.log(STATES) - (LENGTH - 1) * np.log1p(-1 / STATES)
        agree(lambda: model.log_prob(x), lambda: peer.log_probability(rows) + unlike)
    return Workload(name, "pomegranate", ours, theirs, 2.0 * LENGTH * BATCH * STATES**2)


def learning(name: str) -> Workload:
    """Expected counts and new parameters; the peer's M step is left out in its favour."""
    model, *parameters = _hmm(LENGTH)
    x = torch.randint(SYMBOLS, (BATCH, LENGTH))
    ours, theirs = em_step(model, x), None
    if is_installed("pomegranate"):
        peer, rows = _pomegranate(*parameters), x.unsqueeze(-1)
        theirs = forward(lambda: peer.summarize(rows))
    return Workload(name, "pomegranate", ours, theirs, 6.0 * LENGTH * BATCH * STATES**2)


def soft(
    name: str, batch: int, share: float, goal: float | None, dtype: torch.dtype | None = None
) -> Workload:
    """Log Z of a language model's potentials, against the matrix product it cannot do without."""
    model, evidence, rows, matrix = _soft(batch, share, dtype)
    out = torch.empty(len(rows), WIDE)
    return Workload(
        name,
        "one bare matrix product",
        forward(lambda: model.log_prob(evidence)),
        lambda: torch.mm(rows, matrix, out=out),
        2.0 * len(rows) * TOKENS * WIDE,
        float(TOKENS * WIDE),
        goal=goal,
    )


def listed(name: str) -> Workload:
    """The largest potentials alone, chosen beforehand: only their rows of the table are read."""
    model, evidence, rows, matrix = _soft(1, 1.0)
    few = evidence.top_k(LISTED)
    out = torch.empty(len(rows), WIDE)
    return Workload(
        name,
        "one bare matrix product",
        forward(lambda: model.log_prob(few)),
        lambda: torch.mm(rows, matrix, out=out),
        2.0 * len(rows) * LISTED * WIDE,
        float(len(rows) * LISTED * WIDE),
    )


def half(name: str) -> Workload:
    """Visible positions must cost nothing."""
    model, evidence, rows, _ = _soft(1, 0.5)
    _, all_masked, _, _ = _soft(1, 1.0)
    return Workload(
        name,
        "pcflow, all masked",
        forward(lambda: model.log_prob(evidence)),
        forward(lambda: model.log_prob(all_masked)),
        2.0 * len(rows) * TOKENS * WIDE,
        float(TOKENS * WIDE),
        goal=1 / 0.6,
    )


def posteriors(name: str) -> Workload:
    """One-site posteriors of every position: two products with the table."""
    model, evidence, rows, matrix = _soft(1, 1.0)
    out = torch.empty(len(rows), WIDE)
    return Workload(
        name,
        "one bare matrix product",
        forward(lambda: model.marginals(evidence)),
        lambda: torch.mm(rows, matrix, out=out),
        4.0 * len(rows) * TOKENS * WIDE,
        2.0 * TOKENS * WIDE,
        goal=1 / 3,
    )


def _hmm(length: int) -> tuple[pf.CompiledCircuit, Tensor, Tensor, Tensor]:
    """A model; start [N], transitions [N, N] and emissions [N, V] of its states."""
    circuit = pf.hmm(length, STATES, pf.Categorical(SYMBOLS))
    values = {p.shape: p.value for p in circuit.parameters}
    emit = values[(SYMBOLS, STATES)].softmax(dim=0).t()
    move = values[(STATES, STATES)].softmax(dim=1)
    return pf.compile(circuit), values[(1, STATES)].softmax(dim=1)[0], move, emit


def _soft(
    batch: int, share: float, dtype: torch.dtype | None = None
) -> tuple[pf.CompiledCircuit, pf.Evidence, Tensor, Tensor]:
    """A model, evidence, and what the bare product multiplies: [N, V] and [V, K]."""
    model = pf.compile(pf.hmm(LENGTH, WIDE, pf.Categorical(TOKENS)), soft_dtype=dtype)
    potentials = torch.randn(batch, LENGTH, TOKENS).log_softmax(dim=-1)
    missing = (torch.arange(LENGTH) % 2 < 2 * share - 0.5).expand(batch, -1)
    evidence = pf.Evidence(torch.zeros(batch, LENGTH), missing, potentials)
    return model, evidence, potentials[missing].exp(), torch.rand(TOKENS, WIDE)


def _stochastic(matrix: Tensor) -> np.ndarray:
    """Rows that sum to one in float64."""
    exact = matrix.double().numpy()
    return exact / exact.sum(axis=-1, keepdims=True)


def _hmmlearn(x: Tensor, start: Tensor, move: Tensor, emit: Tensor) -> Callable[[], Tensor] | None:
    """What it says of all rows together."""
    if not is_installed("hmmlearn"):
        return None
    from hmmlearn.hmm import CategoricalHMM

    theirs = CategoricalHMM(STATES)
    theirs.startprob_, theirs.transmat_ = _stochastic(start), _stochastic(move)
    theirs.emissionprob_ = _stochastic(emit)
    theirs.n_features = SYMBOLS
    column, lengths = x.reshape(-1, 1).numpy(), [LENGTH] * BATCH
    return lambda: torch.tensor(theirs.score(column, lengths), dtype=torch.float32)


def _pomegranate(start: Tensor, move: Tensor, emit: Tensor) -> Any:
    """The same hidden Markov model there."""
    from pomegranate.distributions import Categorical
    from pomegranate.hmm import DenseHMM

    stay = 1 - 1 / STATES  # it counts ending among the transitions
    return DenseHMM(
        [Categorical(row.unsqueeze(0)) for row in emit],
        edges=move * stay,
        starts=start,
        ends=torch.full((STATES,), 1 / STATES),
    )
