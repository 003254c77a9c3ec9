"""Information in circuits, exactly: entropy, divergences, inner products, marginal MAP.

Each query says which property makes it exact, proves it at the door, and names in its refusal the
estimate or bound that needs less (Vergari et al. 2021, arXiv 2102.06137).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from pcflow.algebra.bounds import entropy_upper_bound
from pcflow.algebra.moments import checked_variables
from pcflow.algebra.overlap import covered, log_overlap
from pcflow.algebra.transform import marginalize, powered_circuit
from pcflow.checks import check_kind
from pcflow.circuit import Circuit, Deterministic, StructuredDecomposable, required_by
from pcflow.errors import EvidenceError, SettingError
from pcflow.evidence import Domain, Evidence, Numbers, check
from pcflow.queries import CompiledCircuit, as_circuit, compile

ROUNDING = 1e-12
"""Mass outside a support that is no larger may be rounding, and counts as none."""


def entropy(circuit: Circuit | CompiledCircuit) -> float:
    """Entropy H(X) (nats), differential where values are real; one pass up and one down.

    Needs determinism: then the variables decide what every sum chooses.

    Args:
        circuit: a circuit, or a model with the parameters that it has now.

    Returns:
        The entropy, in nats.

    Raises:
        NotDeterministic: if the circuit is not deterministic; `entropy_lower_bound`,
            `entropy_upper_bound` and `entropy_estimate` are for any circuit.
        PropertyRequired: if an input family does not say its entropy.

    Examples:
        >>> import pcflow as pf
        >>> fair = pf.Categorical(4), {"logits": pf.Parameter(torch.zeros(4, 1))}
        >>> round(entropy(pf.Circuit(pf.InputLayer(0, fair[0], 1, fair[1]))), 4)
        1.3863
    """
    return _entropy(as_circuit(circuit), "entropy")


def cross_entropy(p: Circuit | CompiledCircuit, q: Circuit | CompiledCircuit) -> float:
    """Cross-entropy -sum_x p(x) log q(x) (nats); inf if p has mass where q has none.

    Needs compatibility, and that q is deterministic: then logarithms move past its sums.

    Args:
        p: a circuit, or a model with the parameters that it has now.
        q: another one, over the same variables.

    Returns:
        The cross-entropy, in nats.

    Raises:
        NotDeterministic: if q is not; `cross_entropy_estimate` is for any circuits.
        NotCompatible: if the circuits are not compatible.
        PropertyRequired: if two input families have no product.

    Examples:
        >>> import pcflow as pf
        >>> tree = pf.chow_liu(torch.randint(2, (50, 3)))
        >>> abs(cross_entropy(tree, tree) - pf.entropy(tree)) < 1e-9
        True
    """
    p, q = as_circuit(p, "p"), as_circuit(q, "q")
    with required_by("cross_entropy", "cross_entropy_estimate"):
        return _cross_entropy(p, q)


def kl_divergence(p: Circuit | CompiledCircuit, q: Circuit | CompiledCircuit) -> float:
    """Kullback-Leibler divergence KL(p || q) (nats); inf if p has mass where q has none.

    Needs compatibility, and that both are deterministic.

    Args:
        p: a circuit, or a model with the parameters that it has now.
        q: another one, over the same variables.

    Returns:
        The divergence, in nats, never negative.

    Raises:
        NotDeterministic: if one of them is not; `kl_estimate` is for any circuits.
        NotCompatible: if they are not compatible.
        PropertyRequired: if an input family does not say its entropy, or two have no product.

    Examples:
        >>> import pcflow as pf
        >>> tree = pf.chow_liu(torch.randint(2, (50, 3)))
        >>> other = pf.power(tree, 0.5)
        >>> kl_divergence(tree, other) > 0
        True
    """
    p, q = as_circuit(p, "p"), as_circuit(q, "q")
    with required_by("kl_divergence", "kl_estimate"):
        return _kl_divergence(p, q)


def renyi_entropy(circuit: Circuit | CompiledCircuit, order: float) -> float:
    """Renyi entropy log(sum_x p(x)^order) / (1 - order) (nats); of order 1, the entropy.

    Any order for a deterministic circuit; whole numbers from 2 for structured-decomposable ones.
    Of order 0 it is the logarithm of the number of possible states.

    Args:
        circuit: a circuit, or a model with the parameters that it has now.
        order: a finite number.

    Returns:
        The entropy, in nats.

    Raises:
        NotDeterministic: if the circuit is not deterministic, and the order not a whole number.
        NotStructuredDecomposable: if it is one, but the circuit not structured-decomposable.
        PropertyRequired: if an input family has no such power.

    Examples:
        >>> import pcflow as pf
        >>> collisions = renyi_entropy(pf.hmm(3, states=2, inputs=pf.Bernoulli()), 2)
        >>> 0 < collisions < 3 * torch.log(torch.tensor(2.0)).item()
        True
    """
    SettingError.check("order", order, "a finite number", math.isfinite)
    circuit = as_circuit(circuit)
    if order == 1:
        return _entropy(circuit, "renyi_entropy")
    return powered_circuit(circuit, order, "renyi_entropy")[1] / (1 - order)


def renyi_divergence(
    p: Circuit | CompiledCircuit, q: Circuit | CompiledCircuit, order: float
) -> float:
    """Renyi divergence log(sum_x p(x)^order q(x)^(1 - order)) / (order - 1) (nats).

    Needs compatibility, and that both are deterministic. Of order 1 it is `kl_divergence`; above 1
    it is inf if p has mass where q has none.

    Args:
        p: a circuit, or a model with the parameters that it has now.
        q: another one, over the same variables.
        order: a positive number.

    Returns:
        The divergence, in nats.

    Raises:
        SettingError: if the order is not positive.
        NotDeterministic: if one of the circuits is not deterministic.
        NotCompatible: if they are not compatible.
        PropertyRequired: if two input families have no such product.

    Examples:
        >>> import pcflow as pf
        >>> tree = pf.chow_liu(torch.randint(2, (50, 3)))
        >>> abs(renyi_divergence(tree, tree, 0.5)) < 1e-9
        True
    """
    p, q = as_circuit(p, "p"), as_circuit(q, "q")
    SettingError.check("order", order, "positive and finite", lambda x: 0 < x < math.inf)
    if order == 1:
        with required_by("renyi_divergence", "kl_estimate"):
            return _kl_divergence(p, q)
    with required_by("renyi_divergence", "expectation_estimate of (q / p)^(1 - order) under p"):
        for circuit in (p, q):
            circuit.properties.require(Deterministic)
        if order > 1 and covered(p, q)[0] < 1 - ROUNDING:
            return math.inf
        return log_overlap(p, q, order, 1 - order) / (order - 1)


def cauchy_schwarz_divergence(p: Circuit | CompiledCircuit, q: Circuit | CompiledCircuit) -> float:
    """Cauchy-Schwarz divergence -log(sum p q / sqrt(sum p^2 sum q^2)) (nats).

    Needs compatibility, and that both are structured-decomposable. It is symmetric, not negative,
    zero if p = q, and inf if they share no state.

    Args:
        p: a circuit, or a model with the parameters that it has now.
        q: another one, over the same variables.

    Returns:
        The divergence, in nats.

    Raises:
        NotStructuredDecomposable: if one of the circuits is not structured-decomposable.
        NotCompatible: if they are not compatible.
        PropertyRequired: if two input families have no product.

    Examples:
        >>> import pcflow as pf
        >>> one, two = (pf.hmm(3, states=2, inputs=pf.Bernoulli()) for _ in range(2))
        >>> cauchy_schwarz_divergence(one, two) > 0
        True
    """
    p, q = as_circuit(p, "p"), as_circuit(q, "q")
    instead = "expectation_estimate of one density under the other"
    with required_by("cauchy_schwarz_divergence", instead):
        squares = []
        for circuit in (p, q):
            circuit.properties.require(StructuredDecomposable)
            squares.append(log_overlap(circuit, circuit))
        return 0.5 * sum(squares) - log_overlap(p, q)


def inner_product(p: Circuit | CompiledCircuit, q: Circuit | CompiledCircuit) -> float:
    """The inner product sum_x p(x) q(x) of two circuits: the density of q expected under p.

    Needs compatibility. `log_inner_product` is its logarithm, which does not underflow.

    Args:
        p: a circuit, or a model with the parameters that it has now.
        q: another one, over the same variables.

    Returns:
        The sum, or the integral, over all states.

    Raises:
        NotCompatible: if the circuits are not compatible; `expectation_estimate` takes any.
        PropertyRequired: if two input families have no product.

    Examples:
        >>> import pcflow as pf
        >>> fair = {"logits": pf.Parameter(torch.zeros(1))}
        >>> coin = pf.Circuit(pf.InputLayer(0, pf.Bernoulli(), 1, fair))
        >>> round(inner_product(coin, coin), 6)
        0.5
    """
    p, q = as_circuit(p, "p"), as_circuit(q, "q")
    with required_by("inner_product", "expectation_estimate"):
        return math.exp(log_overlap(p, q))


def log_inner_product(p: Circuit | CompiledCircuit, q: Circuit | CompiledCircuit) -> float:
    """Log sum_x p(x) q(x) (nats), -inf if the circuits share no state; see `inner_product`.

    Args:
        p: a circuit, or a model with the parameters that it has now.
        q: another one, over the same variables.

    Returns:
        The logarithm, in nats.

    Raises:
        NotCompatible: if the circuits are not compatible; `expectation_estimate` takes any.
        PropertyRequired: if two input families have no product.

    Examples:
        >>> import pcflow as pf
        >>> chain = pf.hmm(500, states=2, inputs=pf.Bernoulli())
        >>> log_inner_product(chain, chain) < -100
        True
    """
    p, q = as_circuit(p, "p"), as_circuit(q, "q")
    with required_by("log_inner_product", "expectation_estimate"):
        return log_overlap(p, q)


class MAP(NamedTuple):
    """The most probable state of some variables, with all others summed out.

    Attributes:
        values: [B, Q], one column per query variable, in the order of the query.
        log_value: [B], log p(values, evidence) (nats). No other values are more probable.

    Examples:
        >>> import pcflow as pf
        >>> circuit, _ = pf.compile_cnf(pf.CNF([[1, 2]], 2))
        >>> values, log_value = marginal_map(circuit, [0], torch.full((1, 2), torch.nan))
        >>> values, log_value.exp()  # two of three models have it
        (tensor([[1]]), tensor([0.6667], dtype=torch.float64))
    """

    values: Tensor
    log_value: Tensor


def marginal_map(
    circuit: Circuit | CompiledCircuit, query: Iterable[int], evidence: Evidence | Numbers
) -> MAP:
    """The most probable state of some variables given evidence, with all others summed out.

    Needs determinism of the circuit that is left when the others are summed out: no sum may decide
    on one of them. With all variables in the query it is `mpe`.

    Args:
        circuit: the circuit.
        query: variables to maximise; those observed in every row may be among them or not.
        evidence: values [B, D], NaN where missing, or `Evidence` without potentials or intervals;
            what is observed in any row must be observed in all, or in the query.

    Returns:
        The states [B, Q], and their log-probabilities [B] (nats).

    Raises:
        NotDeterministic: naming the sum; `map_lower_bound` and `map_upper_bound` need nothing.
        EvidenceError: if the evidence does not fit, or is of some rows only.
        NoMassError: if some row of the evidence is impossible.

    Examples:
        >>> import pcflow as pf
        >>> tree = pf.chow_liu(torch.randint(2, (50, 3)))
        >>> marginal_map(tree, [2, 0], torch.tensor([[torch.nan, 1.0, torch.nan]])).values.shape
        torch.Size([1, 2])
    """
    circuit = as_circuit(circuit)
    check_kind("query", query, Iterable, "an iterable of variables")
    wanted = list(query)
    checked_variables(circuit, wanted, "query")
    domain = Domain(circuit.num_categories, torch.device("cpu"), torch.float64)
    checked = check(evidence, domain).of_shared("marginal_map")
    if checked.potentials is not None or checked.bounded is not None:
        raise EvidenceError("marginal_map takes no potentials or intervals; map_upper_bound does")
    others = [v for v in range(circuit.num_variables) if v not in wanted]
    seen = [v for v in others if not checked.missing[:, v].all()]
    partly = [v for v in seen if checked.missing[:, v].any()]
    if partly:
        raise EvidenceError(f"variable {partly[0]} is observed in some rows only, and not queried")
    left = marginalize(circuit, wanted + seen)
    door = "marginal_map, with the other variables summed out,"
    with required_by(door, "map_lower_bound, map_upper_bound"):
        left.properties.require(Deterministic)
    columns = wanted + seen
    rows = Evidence(checked.values[:, columns], checked.missing[:, columns])
    found = compile(left, dtype=torch.float64).mpe(rows)
    return MAP(found.values[:, : len(wanted)], found.log_value)


def _entropy(circuit: Circuit, by: str) -> float:
    with required_by(by, "entropy_lower_bound, entropy_upper_bound, entropy_estimate"):
        circuit.properties.require(Deterministic)
    return entropy_upper_bound(circuit)


def _cross_entropy(p: Circuit, q: Circuit) -> float:
    q.properties.require(Deterministic)
    mass, mean = covered(p, q)
    return math.inf if mass < 1 - ROUNDING else -mean


def _kl_divergence(p: Circuit, q: Circuit) -> float:
    p.properties.require(Deterministic)
    return max(0.0, _cross_entropy(p, q) - entropy_upper_bound(p))  # rounding may end below
