"""States of a hidden Markov chain given what is observed: the best path, and all posteriors.

Legend: B batch, L positions, D variables, K states, F folds.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pcflow.circuit import Circuit, MarkovChain, required_by
from pcflow.engine import Best, Engine, Leaf, MaxLatents, follow_latents, in_ordinary_modes, up
from pcflow.evidence import CheckedEvidence, Evidence, Numbers
from pcflow.queries.compiled import CompiledCircuit, as_model
from pcflow.queries.possible import evaluate, refuse_impossible


class Viterbi(NamedTuple):
    """The most probable path of hidden states.

    Attributes:
        states: [B, L].
        log_value: [B], log p(states, evidence) (nats). No other path is more probable.
    """

    states: Tensor
    log_value: Tensor


@in_ordinary_modes
@torch.no_grad()
def viterbi(circuit: Circuit | CompiledCircuit, evidence: Evidence | Numbers) -> Viterbi:
    """The most probable hidden states given what is observed, with everything else summed out.

    Exact, whatever is missing where: rows need not have the same gaps (Viterbi 1967). `mpe` of
    `expose_latents` is another question: it chooses the missing values as well.

    Args:
        circuit: a hidden Markov chain, as `hmm` makes them. A circuit runs in float64, a model in
            its own precision; a model is not compiled anew.
        evidence: values [B, D], NaN where missing, or `Evidence`.

    Raises:
        NotAChain: if the circuit is none; `marginal_map` of `expose_latents` takes others.
        NoMassError: if some row of the evidence is impossible.
        EvidenceError: if the evidence does not fit the circuit.

    Examples:
        >>> import pcflow as pf
        >>> chain = pf.hmm(3, states=2, inputs=pf.Categorical(5))
        >>> pf.viterbi(chain, torch.tensor([[0, torch.nan, 4], [1, 2, torch.nan]])).states.shape
        torch.Size([2, 3])
    """
    engine, chain = _engine(circuit, "viterbi")
    first = [position.variables[0] for position in chain.positions]
    found = [_path(engine, part) for part in engine.parts(engine.check(evidence))]
    states, log_value = (torch.cat(one) for one in zip(*found, strict=True))
    return Viterbi(states[:, first], log_value)


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
        >>> log_posteriors.exp().sum(dim=-1)
        tensor([[1.0000, 1.0000, 1.0000]], dtype=torch.float64)
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
        places = torch.tensor([self.place[leaf.step.over[fold]] for fold in folds], device=device)
        self.out[rows.unsqueeze(-1), places, : flow.shape[-1]] = flow


def _engine(circuit: Circuit | CompiledCircuit, query: str) -> tuple[Engine, MarkovChain]:
    """The engine of a chain, and how it reads as one."""
    engine = as_model(circuit).engine
    with required_by(query, "marginals and marginal_map of expose_latents"):
        return engine, MarkovChain.of(engine.structure)


def _path(engine: Engine, part: CheckedEvidence) -> tuple[Tensor, Tensor]:
    """The best unit of every variable [B, D], and its log-value [B]."""
    tape = up(engine.plan, engine.tables, part, MaxLatents(engine.plan.machine), engine.pool)
    refuse_impossible(tape.log_value, "viterbi", part.origin)
    return follow_latents(tape, Best(), copies=1), tape.log_value
