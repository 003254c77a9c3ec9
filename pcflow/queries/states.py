"""States of a hidden Markov chain given what is observed: the best path, and all posteriors.

Legend: B batch, L positions, D variables, K states, F folds.
"""

from __future__ import annotations

from functools import partial, reduce
from typing import NamedTuple

import torch
from torch import Tensor

from pcflow.circuit import Circuit, MarkovChain, required_by
from pcflow.engine import Engine, Leaf, best_path, in_ordinary_modes, stay
from pcflow.errors import EvidenceError
from pcflow.evidence import CheckedEvidence, Evidence, Numbers, as_tensor
from pcflow.queries.compiled import CompiledCircuit, as_model
from pcflow.queries.possible import evaluate, refuse_impossible


class Viterbi(NamedTuple):
    """The most probable path of hidden states.

    Attributes:
        states: [B, L]; -1 behind the end of a row.
        log_value: [B], log p(states, evidence) (nats). No other path is more probable.

    Examples:
        >>> import pcflow as pf
        >>> path = pf.viterbi(pf.hmm(3, states=2, inputs=pf.Bernoulli()), [[0, 1, 1]])
        >>> path.states.shape, path.log_value.shape
        (torch.Size([1, 3]), torch.Size([1]))
    """

    states: Tensor
    log_value: Tensor


@in_ordinary_modes
@torch.no_grad()
def viterbi(
    circuit: Circuit | CompiledCircuit,
    evidence: Evidence | Numbers,
    lengths: Numbers | None = None,
) -> Viterbi:
    """The most probable hidden states given what is observed, with everything else summed out.

    Exact, whatever is missing where: rows need not have the same gaps (Viterbi 1967). `mpe` of
    `expose_latents` is another question: it chooses the missing values as well.

    Args:
        circuit: a hidden Markov chain, as `hmm` makes them. A circuit runs in float64, a model in
            its own precision; a model is not compiled anew.
        evidence: values [B, D], NaN where missing, or `Evidence`.
        lengths: how many positions every row has, integers [B] in 1..L, if padding is not to be
            decoded: of what is behind nothing is looked at, be it observed or missing, and states
            are told as -1. All have L by default.

    Returns:
        The states [B, L], -1 behind the end of a row, and log-probabilities [B] (nats).

    Raises:
        NotAChain: if the circuit is none; `marginal_map` of `expose_latents` takes others.
        NoMassError: if some row of the evidence is impossible.
        EvidenceError: if the evidence or the lengths do not fit the circuit.

    Examples:
        >>> import pcflow as pf
        >>> chain = pf.hmm(3, states=2, inputs=pf.Categorical(5))
        >>> x = torch.tensor([[0, torch.nan, 4], [1, 2, torch.nan]])
        >>> pf.viterbi(chain, x, lengths=[3, 2]).states[1, 2]
        tensor(-1)
    """
    engine, chain = _engine(circuit, "viterbi")
    known = engine.check(evidence).of_shared("viterbi")
    ends = _ends(lengths, len(known.values), len(chain.positions)).to(engine.domain.device)
    long = engine.long_chain
    halved = long is not None and long.suits(len(ends))
    best = partial(_best_by_halves, engine) if halved else _Search(engine, chain).best
    found = [
        best(part, ends if part.origin is None else ends[part.origin])
        for part in engine.parts(known)
    ]
    states, log_value = (torch.cat(one) for one in zip(*found, strict=True))
    refuse_impossible(log_value, "viterbi")
    return Viterbi(states, log_value)


@in_ordinary_modes
@torch.no_grad()
def state_posteriors(circuit: Circuit | CompiledCircuit, evidence: Evidence | Numbers) -> Tensor:
    """Log-probabilities (nats) of every hidden state given all of the evidence ("smoothing").

    Args:
        circuit: a hidden Markov chain; see `viterbi`.
        evidence: values [B, D], NaN where missing, or `Evidence`.

    Returns:
        [B, L, K], log p(state k at position t | evidence); -inf where that is less than the
        precision holds, and for states that a position does not have.

    Raises:
        NotAChain: if the circuit is none; `marginals` of `expose_latents` takes others.
        NoMassError: if some row of the evidence is impossible.
        EvidenceError: if the evidence does not fit the circuit.

    Examples:
        >>> import pcflow as pf
        >>> chain = pf.hmm(3, states=2, inputs=pf.Categorical(5))
        >>> log_posteriors = pf.state_posteriors(chain, torch.tensor([[0, torch.nan, 4]]))
        >>> log_posteriors.exp().sum(dim=-1).float()
        tensor([[1., 1., 1.]])
    """
    engine, chain = _engine(circuit, "state_posteriors")
    known = engine.check(evidence)
    shape = len(known.values), len(chain.positions), chain.states
    found = _Flows(chain, engine.tables.like.new_zeros(shape))
    for part in engine.parts(known):
        evaluation = evaluate(engine, part, "state_posteriors")
        evaluation.down(torch.ones_like(evaluation.log_value), found.at_leaf)
    return (found.out / found.out.sum(dim=-1, keepdim=True)).log_()


class _Flows:
    """Writes how often the units of every position are used into `out` [B, L, K]."""

    def __init__(self, chain: MarkovChain, out: Tensor) -> None:
        self.out = out
        self.place = {position.variables[0]: t for t, position in enumerate(chain.positions)}

    def at_leaf(self, leaf: Leaf, slope: Tensor) -> None:
        """Those of the first emission of a position are those of its states."""
        folds = [fold for fold, variable in enumerate(leaf.step.over) if variable in self.place]
        flow = leaf.semiring.flow(leaf.out.units, slope)[folds].transpose(0, 1)  # [B, F, K]
        device = self.out.device
        rows = torch.arange(len(self.out), device=device) if leaf.rows is None else leaf.rows
        places = torch.tensor(
            [self.place[leaf.step.over[fold]] for fold in folds], dtype=torch.long, device=device
        )
        self.out[rows.unsqueeze(-1), places, : flow.shape[-1]] = flow


def _engine(circuit: Circuit | CompiledCircuit, query: str) -> tuple[Engine, MarkovChain]:
    """The engine of a chain, and how it reads as one."""
    engine = as_model(circuit).engine
    with required_by(query, "marginals and marginal_map of expose_latents"):
        return engine, engine.chain


def _ends(lengths: Numbers | None, rows: int, most: int) -> Tensor:
    """The last position of every row, [B]."""
    if lengths is None:
        return torch.full((rows,), most - 1)
    given = as_tensor("lengths", lengths)
    if given.is_floating_point() or given.shape != (rows,):
        raise EvidenceError(
            f"lengths must be integers [{rows}], got {given.dtype} {[*given.shape]}"
        )
    wrong = ((given < 1) | (given > most)).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise EvidenceError(f"lengths: row {row} has {int(given[row])}, must be in 1..{most}")
    return given.long() - 1


def _best_by_halves(engine: Engine, part: CheckedEvidence, ends: Tensor) -> tuple[Tensor, Tensor]:
    """As `_Search.best`, of few rows of a long chain."""
    long = engine.long_chain
    assert long is not None
    steps = long.steps(engine.tables, engine.log_leaves(part))
    beyond = torch.arange(len(steps), device=ends.device).unsqueeze(-1) > ends  # [L, B]
    steps = torch.where(beyond[..., None, None], stay(steps), steps)
    states, log_value = best_path(steps)
    return states.masked_fill_(beyond, -1).t(), log_value.to(engine.domain.dtype)


class _Search:
    """Viterbi's algorithm: the best way to every state, position after position, and back."""

    def __init__(self, engine: Engine, chain: MarkovChain) -> None:
        self.engine, self.chain = engine, chain
        banks = zip(engine.plan.banks, engine.tables.banks, strict=True)
        now = {p: v for bank, values in banks for p, v in zip(bank, values, strict=True)}
        weights = {position.arrival.weight for position in chain.positions}
        self.log = {weight: now[weight].log_softmax(dim=-1) for weight in weights}  # [K, K]
        self.into = {weight: log.t().contiguous() for weight, log in self.log.items()}

    def best(self, part: CheckedEvidence, ends: Tensor) -> tuple[Tensor, Tensor]:
        """The best path [B, L] to the last position [B] of every row, and its log-value [B]."""
        reached = self._forward(part)
        states: list[Tensor] = []
        log_value = reached[0].new_empty(len(ends))
        for t in reversed(range(len(reached))):
            score = reached[t]
            if states:  # rows that go on have a next state
                into = self.into[self.chain.positions[t + 1].arrival.weight]
                score = score + into.index_select(0, states[-1])
                score = torch.where((ends == t).unsqueeze(-1), reached[t], score)
            peak, state = score.max(dim=-1)
            log_value = torch.where(ends == t, peak, log_value)
            states.append(state)
        path = torch.stack(states[::-1], dim=1)
        beyond = torch.arange(len(reached), device=ends.device) > ends.unsqueeze(-1)
        return path.masked_fill_(beyond, -1), log_value

    def _forward(self, part: CheckedEvidence) -> list[Tensor]:
        """Log-values [B, K] of the best ways to every state, for every position."""
        units: dict[int, Tensor] = {}
        for leaf in self.engine.log_leaves(part):
            units |= zip(leaf.step.over, leaf.out.units, strict=True)
        reached: list[Tensor] = []
        for t, position in enumerate(self.chain.positions):
            here = reduce(torch.add, map(units.pop, position.variables))
            weight = position.arrival.weight
            way = self._arrive(reached[-1], self.into[weight]) if t else self.log[weight]
            reached.append(here + way)
        return reached

    def _arrive(self, before: Tensor, into: Tensor) -> Tensor:
        """The best of all ways [B, K'] from scores [B, K] by log-weights [K', K]."""
        size = max(1, self.engine.plan.machine.cached // into.numel())
        return torch.cat([(some.unsqueeze(1) + into).amax(dim=-1) for some in before.split(size)])
