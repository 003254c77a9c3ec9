"""Moments, covariances and mutual information, exact for every circuit.

A circuit is linear in the units of each input layer, so one pass up and one down, in plain float64
arithmetic, gives the expectation of a product of functions of single variables, and all of them
that differ from it in one factor.

Legend: D variables, K units, C rows (one expectation each), S states, V categories.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from numbers import Integral

import torch
from torch import Tensor

from pcflow.checks import check_kind, check_whole
from pcflow.circuit import Circuit, InputLayer, ProductLayer, SumLayer
from pcflow.errors import EvidenceError, PropertyRequired
from pcflow.evidence import Evidence
from pcflow.queries import CompiledCircuit, as_circuit, compile

MOST_STATES = 1 << 20
"""Most joint states of two sets of variables that `mutual_information` lists."""

NUMBERS_AT_A_TIME = 1 << 23
"""How many numbers a pass may hold; more rows than that are run in parts."""

Values = dict[InputLayer, Tensor]
"""What every input layer counts as, [C, K]."""


def moment(circuit: Circuit | CompiledCircuit, powers: Mapping[int, int]) -> float:
    """E[prod_i x_i^k_i], where `powers` gives k_i for variable i; exact, by one pass.

    Values of finite variables count as the numbers 0, 1, ... Computed in float64; infinite where
    the moment is too large for it.

    Args:
        circuit: any circuit.
        powers: for each variable its power, 0 if it is left out.

    Returns:
        The expectation.

    Raises:
        PropertyRequired: if an input family does not say its moments of such a power
            (`expectation_estimate` draws instead).
        EvidenceError: if there is no such variable.
        SettingError: if a power is negative or not a whole number.

    Examples:
        >>> import pcflow as pf
        >>> odds = pf.Parameter.from_probs([[0.2], [0.5], [0.3]])
        >>> dice = [pf.InputLayer(v, pf.Categorical(3), 1, {"logits": odds}) for v in range(2)]
        >>> round(moment(pf.Circuit(pf.ProductLayer(dice)), {0: 2, 1: 1}), 6)
        1.87
    """
    circuit = as_circuit(circuit)
    check_kind("powers", powers, Mapping, "a mapping from variables to powers")
    checked_variables(circuit, powers, "powers")
    for variable, power in powers.items():
        check_whole(f"powers[{variable}]", power, least=0)
    values = _ones(circuit)
    for layer, one in values.items():
        if power := powers.get(layer.variable, 0):
            values[layer] = _raw_moment(layer, power).expand_as(one)
    return _evaluate(circuit, values).item()


def covariance(circuit: Circuit | CompiledCircuit) -> Tensor:
    """Covariance [D, D] (float64) of all pairs of variables; exact.

    Values of finite variables count as the numbers 0, 1, ... Costs one row of a pass up and down
    per variable. Deviations from means are added up, so that large means do not cancel.

    Args:
        circuit: a circuit, or a model with the parameters that it has now.

    Returns:
        The covariances [D, D], in float64.

    Raises:
        PropertyRequired: if an input family does not say its second moment
            (`expectation_estimate` draws instead).

    Examples:
        >>> import pcflow as pf
        >>> values = [pf.InputLayer(v, pf.Indicator([0, 1]), 2) for v in range(2)]
        >>> equal = pf.ProductLayer(values)
        >>> covariance(pf.Circuit(pf.SumLayer([equal], pf.Parameter.from_probs([[0.5, 0.5]]))))
        tensor([[0.2500, 0.2500],
                [0.2500, 0.2500]], dtype=torch.float64)
    """
    circuit = as_circuit(circuit)
    ones = _ones(circuit)
    share = {layer: slope[0] for layer, slope in _slopes(circuit, ones).items()}  # [K]
    first = {layer: _raw_moment(layer, 1) for layer in ones}
    like = next(iter(share.values()))
    mean, variance = like.new_zeros(2, circuit.num_variables)
    for layer, flow in share.items():
        mean[layer.variable] += flow @ first[layer]
    central = {layer: first[layer] - mean[layer.variable] for layer in ones}
    for layer, flow in share.items():
        within = _raw_moment(layer, 2) - first[layer].square()
        variance[layer.variable] += flow @ (within + central[layer].square())
    found = like.new_zeros(len(mean), len(mean))
    size = max(1, NUMBERS_AT_A_TIME // sum(layer.units for layer in circuit.layers))
    for rows in torch.arange(len(mean)).split(size):
        chosen = {n: (rows == n.variable).unsqueeze(-1) for n in ones}  # [C, 1]
        values = {layer: torch.where(chosen[layer], central[layer], 1.0) for layer in ones}
        for layer, slope in _slopes(circuit, values).items():
            found[rows, layer.variable] += slope @ central[layer]
    found.diagonal().copy_(variance)
    return (found + found.t()) / 2


def mutual_information(
    circuit: Circuit | CompiledCircuit, a: int | Iterable[int], b: int | Iterable[int]
) -> float:
    """Mutual information I(A; B) (nats) of two sets of finite variables; exact.

    Adds up the joint distribution of both, which may have `moments.MOST_STATES` = 2^20 states.

    Args:
        circuit: any circuit.
        a: a variable, or several.
        b: others.

    Returns:
        The information, in nats, never negative.

    Raises:
        PropertyRequired: if a variable has no finite range, or there are too many states
            (`mutual_information_estimate` draws instead).
        EvidenceError: if there is no such variable, a set is empty or both share a variable.

    Examples:
        >>> import pcflow as pf
        >>> values = [pf.InputLayer(v, pf.Indicator([0, 1]), 2) for v in range(2)]
        >>> equal = pf.ProductLayer(values)
        >>> fair = pf.SumLayer([equal], pf.Parameter.from_probs([[0.5, 0.5]]))
        >>> round(mutual_information(pf.Circuit(fair), 0, 1), 6)
        0.693147
    """
    circuit = as_circuit(circuit)
    first, second = disjoint_variables(circuit, a, b)
    both = (*first, *second)
    sizes = [_finite(circuit, v) for v in both]
    if prod(sizes) > MOST_STATES:
        raise PropertyRequired(
            f"mutual_information adds up at most {MOST_STATES:,} joint states, and these variables "
            f"have {prod(sizes):,}; mutual_information_estimate draws instead"
        )
    log_joint = _log_marginal(circuit, both, sizes).reshape(prod(sizes[: len(first)]), -1)
    return float(_information(log_joint.exp(), log_joint))


def pairwise_mutual_information(circuit: Circuit | CompiledCircuit) -> Tensor:
    """Mutual information [D, D] (nats, float64) of all pairs of variables; exact.

    On the diagonal are the entropies of single variables. Costs one row of a pass up and down per
    variable and category.

    Args:
        circuit: a circuit, or a model with the parameters that it has now.

    Returns:
        The informations [D, D], in nats.

    Raises:
        PropertyRequired: if a variable has no finite range (`mutual_information_estimate` draws
            instead).

    Examples:
        >>> import pcflow as pf
        >>> coins = [pf.InputLayer.random(v, pf.Bernoulli()) for v in range(2)]
        >>> bool(pairwise_mutual_information(pf.Circuit(pf.ProductLayer(coins)))[0, 1] < 1e-12)
        True
    """
    circuit = as_circuit(circuit)
    sizes = [_finite(circuit, v) for v in range(circuit.num_variables)]
    model = compile(circuit, dtype=torch.float64)
    D, V = len(sizes), max(sizes)
    nothing = Evidence(missing=torch.ones(1, D, dtype=torch.bool))
    log_single = model.marginals(nothing)[0]  # [D, V]
    variable, value = (log_single > -torch.inf).nonzero(as_tuple=True)  # [C]
    found = log_single.new_zeros(D, D)
    for some in torch.arange(len(variable)).split(max(1, NUMBERS_AT_A_TIME // (D * V))):
        of, is_ = variable[some], value[some]
        rows = torch.full((len(some), D), torch.nan, dtype=torch.float64)
        rows[torch.arange(len(some)), of] = is_.double()
        given = model.marginals(rows)  # [C, D, V]
        ratio = (given - log_single).masked_fill(given == -torch.inf, 0.0)
        gain = (given.exp() * ratio).sum(dim=-1)  # [C, D]
        found.index_add_(0, of, log_single[of, is_].exp().unsqueeze(-1) * gain)
    return ((found + found.t()) / 2).clamp_min(0.0)


def checked_variables(circuit: Circuit, given: Iterable[int], what: str) -> tuple[int, ...]:
    """The variables in rising order, each once.

    Raises:
        EvidenceError: naming what is not a variable of the circuit.
    """
    check_kind(what, given, Iterable, "an iterable of variables")
    listed = list(given)
    count = circuit.num_variables
    wrong = [v for v in listed if not isinstance(v, Integral) or not 0 <= v < count]
    if wrong:
        raise EvidenceError(f"{what}: variables must be in 0..{count - 1}, got {wrong[0]!r}")
    return tuple(sorted(set(listed)))


def disjoint_variables(
    circuit: Circuit, a: int | Iterable[int], b: int | Iterable[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two sets of variables that do not overlap, in rising order.

    Raises:
        EvidenceError: if one is empty, or a variable is in both or in none of the circuit.
    """
    first, second = (
        checked_variables(circuit, given if isinstance(given, Iterable) else [given], name)
        for name, given in (("a", a), ("b", b))
    )
    shared = sorted(set(first) & set(second))
    if shared or not first or not second:
        why = f"both hold variable {shared[0]}" if shared else "one is empty"
        raise EvidenceError(f"mutual information is of two disjoint sets of variables, but {why}")
    return first, second


def _finite(circuit: Circuit, variable: int) -> int:
    """The number of categories of a variable."""
    categories = circuit.num_categories[variable]
    if categories is None:
        raise PropertyRequired(
            f"exact mutual information adds up states, but variable {variable} has no finite "
            "range; mutual_information_estimate draws instead"
        )
    return categories


def _log_marginal(circuit: Circuit, variables: tuple[int, ...], sizes: list[int]) -> Tensor:
    """Log-probability [S] of all joint states of some variables, the last one running fastest."""
    model = compile(circuit, dtype=torch.float64)
    states = torch.cartesian_prod(*map(torch.arange, sizes)).reshape(-1, len(sizes))  # [S, n]
    blocks = states.split(max(1, NUMBERS_AT_A_TIME // circuit.num_variables))
    return torch.cat([marginal_log_prob(model, block, variables) for block in blocks])


@torch.no_grad()
def marginal_log_prob(model: CompiledCircuit, x: Tensor, variables: tuple[int, ...]) -> Tensor:
    """Log-probability [S] (nats) of values [S, n] of some variables, the others summed out."""
    values = x.new_zeros(len(x), model.num_variables)
    missing = torch.ones_like(values, dtype=torch.bool)
    values[:, list(variables)], missing[:, list(variables)] = x, False
    return model.log_prob(Evidence(values, missing))


def _information(joint: Tensor, log_joint: Tensor) -> Tensor:
    """Mutual information of rows and columns; rounding may not make it negative."""
    independent = log_joint.logsumexp(0) + log_joint.logsumexp(1).unsqueeze(-1)
    ratio = (log_joint - independent).masked_fill(joint == 0, 0.0)
    return (joint * ratio).sum().clamp_min(0.0)


def _ones(circuit: Circuit) -> Values:
    """Everything summed out: one row of ones for every input layer."""
    inputs = (layer for layer in circuit.layers if isinstance(layer, InputLayer))
    one = torch.ones(1, 1, dtype=torch.float64)
    return {layer: one.expand(1, layer.units) for layer in inputs}


def _raw_moment(layer: InputLayer, power: int) -> Tensor:
    """E[x^power] of every unit, [K]."""
    params = {name: value.unsqueeze(0) for name, value in layer.float64().items()}
    return layer.family.raw_moment(params, power).squeeze(0).double()


def _slopes(circuit: Circuit, values: Values) -> Values:
    """The derivative of every row's value by the units of every input layer."""
    with torch.enable_grad():
        leaves = {layer: value.detach().requires_grad_() for layer, value in values.items()}
        total = _evaluate(circuit, leaves).sum()
    slopes = torch.autograd.grad(total, list(leaves.values()))
    return dict(zip(leaves, slopes, strict=True))


def _evaluate(circuit: Circuit, values: Values) -> Tensor:
    """The value [C] of the root, in linear arithmetic."""

    def at_sum(layer: SumLayer, below: Sequence[Tensor]) -> Tensor:
        return layer.add_up(below, layer.weight.value.double().softmax(dim=-1))

    def at_product(layer: ProductLayer, below: Sequence[Tensor]) -> Tensor:
        return layer.combine(below, torch.mul)

    return circuit.fold(values.__getitem__, at_sum, at_product).squeeze(-1)
