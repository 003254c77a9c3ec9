"""Bounds where the exact answer is hard without determinism: MPE, marginal MAP, entropy.

Each is one pass (and one down) for any circuit. Legend: B batch, D variables, F folds, K units of
the layer, J units read by a sum.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from pcflow.algebra.moments import checked_variables
from pcflow.circuit import Circuit
from pcflow.engine import BankRead, Leaf, MaxInputs, Tables, up
from pcflow.evidence import CheckedEvidence, Evidence, Numbers
from pcflow.queries import CompiledCircuit, as_model, chosen_potentials


def mpe_upper_bound(model: Circuit | CompiledCircuit, evidence: Evidence | Numbers) -> Tensor:
    """At least max_x log p(x) + sum_i log lambda_i(x_i) [B] (nats), over what is not observed.

    Sums stay sums, and every input unit over an unobserved variable takes its largest value: a
    maximum of a sum is at most the sum of the maxima. Exact if every variable has a single input
    unit; `mpe_lower_bound` is the other side, and `model.mpe` exact for deterministic circuits.
    -inf where the evidence is impossible.

    Args:
        model: any circuit, which is then compiled in float64, or a compiled one.
        evidence: values [B, D], NaN where missing, or `Evidence`.

    Returns:
        Bounds [B], in nats.

    Raises:
        EvidenceError: if the evidence does not fit the circuit.

    Examples:
        >>> import pcflow as pf
        >>> model = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(3)))
        >>> nothing = torch.full((1, 4), torch.nan)
        >>> bool(mpe_lower_bound(model, nothing) <= mpe_upper_bound(model, nothing))
        True
    """
    model = as_model(model)
    return map_upper_bound(model, range(model.num_variables), evidence)


def mpe_lower_bound(model: Circuit | CompiledCircuit, evidence: Evidence | Numbers) -> Tensor:
    """At most max_x log p(x) + sum_i log lambda_i(x_i) [B] (nats): the value that `mpe` finds.

    Max-product with backtracking, scored by sum-product; exact for deterministic circuits.

    Args:
        model: any circuit, which is then compiled in float64, or a compiled one.
        evidence: values [B, D], NaN where missing, or `Evidence`.

    Returns:
        Bounds [B], in nats.

    Raises:
        NoMassError: if some row of the evidence is impossible.
        EvidenceError: if the evidence does not fit the circuit.

    Examples:
        >>> import pcflow as pf
        >>> model = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(3)))
        >>> mpe_lower_bound(model, torch.full((1, 4), torch.nan)).shape
        torch.Size([1])
    """
    return as_model(model).mpe(evidence).log_value


@torch.no_grad()
def map_upper_bound(
    model: Circuit | CompiledCircuit, query: Iterable[int], evidence: Evidence | Numbers
) -> Tensor:
    """At least the value [B] (nats) of marginal MAP: the best states of the query variables.

    That is max_q log sum_r p(q, r) prod_i lambda_i(x_i), q over the query variables that are not
    observed, r over all others. Sums stay sums, and input units over unobserved query variables
    take their largest value. -inf where the evidence is impossible.

    Args:
        model: any circuit, which is then compiled in float64, or a compiled one.
        query: what is maximised; without any this is `log_prob`.
        evidence: values [B, D], NaN where missing, or `Evidence`.

    Returns:
        Bounds [B], in nats.

    Raises:
        EvidenceError: if the evidence does not fit the circuit, or there is no such variable.

    Examples:
        >>> import pcflow as pf
        >>> model = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(3)))
        >>> rows = torch.tensor([[torch.nan, torch.nan, 1.0, torch.nan]])
        >>> bool(map_lower_bound(model, [0, 1], rows) <= map_upper_bound(model, [0, 1], rows))
        True
    """
    engine = as_model(model).engine
    chosen = _mask(engine.structure, query).to(engine.tables.like.device)
    bound = MaxInputs(engine.plan.machine, chosen)

    def of(part: CheckedEvidence) -> Tensor:
        return up(engine.plan.lean, engine.tables, part, bound, engine.pool).log_value

    return torch.cat([of(part) for part in engine.parts(engine.check(evidence), lean=True)])


@torch.no_grad()
def map_lower_bound(
    model: Circuit | CompiledCircuit, query: Iterable[int], evidence: Evidence | Numbers
) -> Tensor:
    """At most the value [B] (nats) of marginal MAP (see `map_upper_bound`).

    The query variables get what `mpe` says of them, and this is scored by sum-product with the
    others summed out.

    Args:
        model: any circuit, which is then compiled in float64, or a compiled one.
        query: what is maximised; without any this is `log_prob`.
        evidence: values [B, D], NaN where missing, or `Evidence`.

    Returns:
        Bounds [B], in nats.

    Raises:
        NoMassError: if some row of the evidence is impossible.
        EvidenceError: if the evidence does not fit the circuit, or there is no such variable.

    Examples:
        >>> import pcflow as pf
        >>> circuit = pf.hmm(2, states=1, inputs=pf.Categorical(3))
        >>> nothing = torch.full((1, 2), torch.nan)
        >>> map_lower_bound(circuit, [0], nothing) == mpe_lower_bound(circuit, nothing)
        tensor([False])
    """
    model = as_model(model)
    chosen = _mask(model.engine.structure, query)
    checked = model.evidence(evidence)
    decided = checked.missing & chosen.to(checked.missing.device)  # [B, D]
    values = model.mpe(checked).values
    rest = checked.observing(values, decided)
    return model.log_prob(rest) + chosen_potentials(checked, values, decided)


def entropy_upper_bound(model: Circuit | CompiledCircuit) -> float:
    """At least the entropy H(X) (nats): H(X, Z), jointly with the choices Z of all sums.

    Equal to H(X) for deterministic circuits, where X decides Z. Differential where values are
    real. One pass up and one down.

    Args:
        model: any circuit, which is then compiled in float64, or a compiled one.

    Returns:
        The bound, in nats.

    Raises:
        PropertyRequired: if an input family does not say its entropy (`entropy_estimate` draws
            instead).

    Examples:
        >>> import pcflow as pf
        >>> either = [pf.InputLayer(0, pf.Indicator(v)) for v in (0, 1)]
        >>> fair = pf.SumLayer(either, pf.Parameter.from_probs([[0.5, 0.5]]))
        >>> round(entropy_upper_bound(pf.Circuit(fair)), 6)
        0.693147
    """
    found = joint_entropy(as_model(model))
    return found.choices + found.inputs


def entropy_lower_bound(model: Circuit | CompiledCircuit) -> float:
    """At most the entropy H(X) (nats): H(X | Z), given the choices Z of all sums.

    Differential where values are real. One pass up and one down.

    Args:
        model: any circuit, which is then compiled in float64, or a compiled one.

    Returns:
        The bound, in nats.

    Raises:
        PropertyRequired: if an input family does not say its entropy (`entropy_estimate` draws
            instead).

    Examples:
        >>> import pcflow as pf
        >>> coins = [pf.InputLayer.random(v, pf.Bernoulli()) for v in range(2)]
        >>> coins = pf.Circuit(pf.ProductLayer(coins))
        >>> entropy_lower_bound(coins) == entropy_upper_bound(coins)
        True
    """
    return joint_entropy(as_model(model)).inputs


class JointEntropy(NamedTuple):
    """The entropy of variables X and latents Z, the inputs that sums choose, by the chain rule.

    Attributes:
        choices: H(Z) (nats).
        inputs: H(X | Z) (nats).
    """

    choices: float
    inputs: float


@torch.no_grad()
def joint_entropy(model: CompiledCircuit) -> JointEntropy:
    """H(Z) and H(X | Z) by one pass up and one down, with everything missing.

    The flow of a sum or input unit is then the probability that it takes part, and its share of
    the entropy is that times the entropy of its weights or distribution.

    Raises:
        PropertyRequired: if an input family does not say its entropy.
    """
    found = _Entropies(model)
    evaluation = model.engine.evaluate(model.engine.nothing())
    evaluation.down(torch.ones_like(evaluation.log_value), found.at_leaf, found.at_weights)
    return JointEntropy(*found.total.tolist())


class _Entropies:
    """Adds up entropies of weights and inputs, by the flows of an evidence of nothing."""

    def __init__(self, model: CompiledCircuit) -> None:
        self.tables = model.engine.tables
        self.total = torch.zeros(2, dtype=torch.float64, device=self.tables.like.device)

    def at_weights(self, read: BankRead, flow: Tensor, tables: Tables) -> None:
        surprise = -tables.linear(read.bank)[read.rows].log()
        self.total[0] += (flow * surprise.masked_fill(flow == 0, 0.0)).sum(dtype=torch.float64)

    def at_leaf(self, leaf: Leaf, slope: Tensor) -> None:
        flow = leaf.semiring.flow(leaf.out.units, slope).sum(dim=1)  # [F, K]
        entropy = leaf.step.family.entropy(self.tables.parameters(leaf.step))  # [F or 1, K]
        entropy = entropy.to(flow)  # a family without parameters does not know where they would be
        self.total[1] += (flow * entropy).sum(dtype=torch.float64)


def _mask(circuit: Circuit, variables: Iterable[int]) -> Tensor:
    """Which variables are named, bool [D]."""
    mask = torch.zeros(circuit.num_variables, dtype=torch.bool)
    mask[list(checked_variables(circuit, variables, "query"))] = True
    return mask
