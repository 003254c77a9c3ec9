"""Circuit to circuit: condition, marginalize, restrict, multiply, take powers, mix, decode one-hot.

Every result is a circuit, so a normalised distribution, and its constructor proves it smooth and
decomposable again. What else is preserved stands in each docstring.

Legend: K and L units, V categories.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from pcflow.algebra.massed import (
    NOTHING,
    Massed,
    finish,
    from_table,
    mix,
    mix_like,
    power_of_inputs,
    times,
)
from pcflow.algebra.multiplication import Multiplication
from pcflow.checks import as_numbers, as_wholes, check_kind, check_kinds
from pcflow.circuit import (
    Circuit,
    Deterministic,
    InputLayer,
    Parameter,
    StructuredDecomposable,
    SumLayer,
    required_by,
    unit_log_probs,
    walk,
)
from pcflow.errors import EvidenceError, NoMassError, SettingError, StructureError
from pcflow.evidence import Domain, check
from pcflow.inputs import Indicator, powered
from pcflow.queries import CompiledCircuit, as_circuit


def condition(circuit: Circuit | CompiledCircuit, values: Mapping[int, float]) -> Circuit:
    """The distribution of the other variables given values of some: p(rest | values).

    The variables that are left are numbered anew, in their order. Preserves
    structured-decomposability and determinism. Given for each row of a batch, the same is
    `model.log_prob(everything) - model.log_prob(values)`.

    Args:
        circuit: the circuit; it is not changed.
        values: for each known variable its value.

    Returns:
        A new circuit over the variables that were not given, in their order.

    Raises:
        EvidenceError: if a variable or value does not fit the circuit.
        NoMassError: if the values have probability zero.
        StructureError: if no variable is left.

    Examples:
        >>> import pcflow as pf
        >>> condition(pf.hmm(4, states=2, inputs=pf.Bernoulli()), {0: 1, 2: 0}).num_variables
        2
    """
    check_kind("values", values, Mapping, "a mapping from variables to values")
    circuit = as_circuit(circuit)
    _check_variables(circuit, values, "values")
    row = torch.full((1, circuit.num_variables), torch.nan, dtype=torch.float64)
    for variable, value in values.items():
        row[0, variable] = float(value)
    known = check(row, Domain(circuit.num_categories, row.device, row.dtype))
    numbers = {p: p.value.double() for p in circuit.parameters}
    left = [v for v in range(circuit.num_variables) if v not in values]

    def at_input(layer: InputLayer) -> Massed:
        if layer.variable in values:
            return Massed(None, unit_log_probs(layer, known, numbers)[0])
        return _renumbered(layer, left.index(layer.variable))

    return _finished(circuit.fold(at_input, mix_like, times), "condition")


def marginalize(circuit: Circuit | CompiledCircuit, keep: Iterable[int]) -> Circuit:
    """The distribution of some of the variables, with all others summed out.

    Variable `keep[k]` becomes variable k. Preserves structured-decomposability; determinism only
    where no sum decides on a variable that goes.

    Args:
        circuit: the circuit; it is not changed.
        keep: the variables that stay, in their new order.

    Returns:
        A new circuit over the variables kept, in their order.

    Raises:
        EvidenceError: if a variable is not one of the circuit's, or is named twice.
        StructureError: if no variable is left.

    Examples:
        >>> import pcflow as pf
        >>> marginalize(pf.hmm(4, states=2, inputs=pf.Bernoulli()), [3, 0]).num_variables
        2
    """
    check_kind("keep", keep, Iterable, "an iterable of variables")
    circuit = as_circuit(circuit)
    kept = list(keep)
    _check_variables(circuit, kept, "keep")
    place = {variable: n for n, variable in enumerate(kept)}

    def at_input(layer: InputLayer) -> Massed:
        if layer.variable not in place:
            return Massed(None, torch.zeros(layer.units, dtype=torch.float64))
        return _renumbered(layer, place[layer.variable])

    return _finished(circuit.fold(at_input, mix_like, times), "marginalize")


def restrict(circuit: Circuit | CompiledCircuit, allowed: Mapping[int, Iterable[int]]) -> Circuit:
    """The distribution given that some variables have values from given sets: p(x | x_i in S_i).

    All variables stay. Preserves structured-decomposability and determinism. To restrict to a
    formula, multiply with the circuit of its models (`compile_cnf`).

    Args:
        circuit: the circuit; it is not changed.
        allowed: for each restricted variable, which must have a finite range, its possible values.

    Returns:
        A new circuit over the same variables, normalised.

    Raises:
        EvidenceError: if a variable or value does not fit the circuit.
        NoMassError: if nothing is possible any more.

    Examples:
        >>> import pcflow as pf
        >>> circuit = restrict(pf.hmm(2, states=2, inputs=pf.Categorical(3)), {0: [1, 2]})
        >>> pf.compile(circuit).log_prob(torch.tensor([[0, 1]])).item()
        -inf
    """
    check_kind("allowed", allowed, Mapping, "a mapping from variables to sets of values")
    circuit = as_circuit(circuit)
    _check_variables(circuit, allowed, "allowed")
    masks = {v: _mask(circuit.num_categories[v], v, some) for v, some in allowed.items()}

    def at_input(layer: InputLayer) -> Massed:
        unchanged = Massed(layer, torch.zeros(layer.units, dtype=torch.float64))
        if layer.variable not in masks:
            return unchanged
        table = layer.log_table()
        gone = table.masked_fill(masks[layer.variable].unsqueeze(-1), NOTHING)
        return from_table(layer.variable, gone) if (gone < table).any() else unchanged

    return _finished(circuit.fold(at_input, mix_like, times), "restrict")


def mixture(
    circuits: Sequence[Circuit | CompiledCircuit], weights: Sequence[float] | Tensor
) -> Circuit:
    """A mixture of circuits over the same variables: sum_k weights[k] p_k(x).

    Preserves structured-decomposability where all follow one vtree; not determinism.

    Args:
        circuits: at least one.
        weights: one for each, not negative; they are divided by their sum.

    Returns:
        A new circuit over the same variables.

    Raises:
        StructureError: if the numbers of circuits and weights differ, a weight is negative, or all
            are zero.
        NotSmooth: if the circuits are over different variables.

    Examples:
        >>> import pcflow as pf
        >>> one, two = (pf.hmm(3, states=n, inputs=pf.Bernoulli()) for n in (1, 2))
        >>> mixture([one, two], [0.25, 0.75]).num_variables
        3
    """
    check_kind("circuits", circuits, Sequence, "a sequence of circuits")
    roots = [as_circuit(one, f"circuits[{n}]").root for n, one in enumerate(circuits)]
    given = as_numbers("weights", weights)
    if given.shape != (len(circuits),) or not (given >= 0).all() or not 0 < given.sum() < torch.inf:
        raise StructureError(f"{len(circuits)} circuits need as many weights >= 0, got {weights}")
    share = Parameter.from_probs((given / given.sum()).unsqueeze(0))
    return Circuit(SumLayer(roots, share))


def multiply(p: Circuit | CompiledCircuit, q: Circuit | CompiledCircuit) -> Circuit:
    """The normalised product p(x) q(x) / Z of two compatible circuits over the same variables.

    Z is `inner_product(p, q)`. A pair of layers with K and L units makes a layer of K L (Vergari et
    al. 2021). Structured-decomposable if both are along one vtree, deterministic if both are.

    Args:
        p: a circuit, or a model with the parameters that it has now.
        q: another one, over the same variables.

    Returns:
        A new circuit over the same variables, normalised.

    Raises:
        NotCompatible: if products split variables in ways that do not nest.
        PropertyRequired: if two input families have no product.
        NoMassError: if the product is zero everywhere.

    Examples:
        >>> import pcflow as pf
        >>> chain = pf.hmm(3, states=2, inputs=pf.Bernoulli())
        >>> multiply(chain, chain).layers[-1]
        SumLayer(1 inputs, 1 units)
    """
    p, q = as_circuit(p, "p"), as_circuit(q, "q")
    with required_by("multiply"):
        return _multiplied(p, q)[0]


def from_one_hot(circuit: Circuit | CompiledCircuit, groups: Sequence[Sequence[int]]) -> Circuit:
    """The circuit over categorical variables that a circuit over 0/1 variables encodes one-hot.

    Variable i of the result has value v where variable `groups[i][v]` is 1. Circuits of formulas
    come in this form: `compile_cnf`, with clauses that exactly one variable of every group holds.
    Literals of zeros are dropped; what is left chooses one value of each variable, or is not smooth
    and decomposable. Determinism is preserved.

    Args:
        circuit: the circuit over 0/1 variables; it is not changed.
        groups: for each categorical variable, the 0/1 variables that stand for its values.

    Returns:
        A new circuit over one categorical variable per group.

    Raises:
        StructureError: if the groups do not share out the circuit's variables, a variable is not
            0/1, or an input or sum leaves open whether one is 1.
        NotSmooth: if the circuit is not proved to have a 1 in every group.
        NotDecomposable: if it is not proved to have a single one.

    Examples:
        >>> import pcflow as pf
        >>> either = pf.compile_cnf(pf.CNF([(1, 2), (-1, -2)])).circuit
        >>> circuit = from_one_hot(either, [[0, 1]])
        >>> pf.compile(circuit).log_prob(torch.tensor([[0], [1]])).exp().tolist()
        [0.5, 0.5]
    """
    circuit = as_circuit(circuit)
    _check_groups(circuit, groups)
    place = {b: (i, v) for i, group in enumerate(groups) for v, b in enumerate(group)}

    def at_input(layer: InputLayer) -> Massed:
        variable, value = place[layer.variable]
        may_be = (layer.log_table() > NOTHING).tolist()  # [2, K]
        certain = torch.zeros(layer.units, dtype=torch.float64)
        if not any(may_be[1]):
            return Massed(None, certain)
        if any(may_be[0]):
            raise StructureError(f"one-hot: {layer} may be 0 and 1, a unit must be one of them")
        one = Indicator([value] * layer.units, len(groups[variable]))
        return Massed(InputLayer(variable, one, layer.units), certain)

    def at_sum(layer: SumLayer, inputs: Sequence[Massed]) -> Massed:
        if len({one.layer is None for one in inputs}) > 1:
            raise StructureError(f"one-hot: some inputs of {layer} have nothing but zeros")
        return mix_like(layer, inputs)

    root = circuit.fold(at_input, at_sum, times)
    found = _finished(root, "from_one_hot")
    if found.num_variables < len(groups):
        raise StructureError(f"one-hot: group {found.num_variables} is always zero")
    return found


def power(circuit: Circuit | CompiledCircuit, exponent: float) -> Circuit:
    """The normalised power p(x)^exponent / Z, on the support of p.

    Any exponent for a deterministic circuit, in one pass; a whole number above zero for a
    structured-decomposable one, as a product with itself. Preserves both properties. An exponent of
    zero is the uniform distribution on the support. Z follows from `renyi_entropy`.

    Args:
        circuit: a circuit, or a model with the parameters that it has now.
        exponent: a finite number.

    Returns:
        A new circuit over the same variables, normalised.

    Raises:
        SettingError: if the exponent is not finite.
        NotDeterministic: if the circuit is not deterministic and the exponent not a whole number.
        NotStructuredDecomposable: if it is one, but the circuit not structured-decomposable.
        PropertyRequired: if an input family has no such power, or the power no finite mass.

    Examples:
        >>> import pcflow as pf
        >>> odds = pf.Parameter(torch.logit(torch.tensor([0.8])))
        >>> coin = pf.Circuit(pf.InputLayer(0, pf.Bernoulli(), 1, {"logits": odds}))
        >>> pf.compile(power(coin, 2.0)).log_prob(torch.tensor([[1]])).exp().item()
        0.941...
    """
    circuit = as_circuit(circuit)
    SettingError.check("exponent", exponent, "a finite number", math.isfinite)
    return powered_circuit(circuit, exponent, f"power({exponent:g})")[0]


def powered_circuit(circuit: Circuit, exponent: float, by: str) -> tuple[Circuit, float]:
    """`power`, and the log of its Z (nats), for a query that goes `by` a name in refusals."""
    whole = exponent == int(exponent) and exponent >= 1
    if whole and circuit.properties.deterministic is None:
        with required_by(by):
            circuit.properties.require(StructuredDecomposable)
            return _repeated(circuit, int(exponent))
    with required_by(by, "whole powers of structured-decomposable circuits"):
        circuit.properties.require(Deterministic)

    def at_input(layer: InputLayer) -> Massed:
        return power_of_inputs(layer, exponent)

    def at_sum(layer: SumLayer, inputs: Sequence[Massed]) -> Massed:
        return mix(inputs, powered(layer.log_weight(), exponent), layer.mixing)

    with required_by(by):
        root = circuit.fold(at_input, at_sum, times)
    return finish(root), root.log_mass.item()


def _repeated(circuit: Circuit, exponent: int) -> tuple[Circuit, float]:
    """A whole power by squaring, and the log of its Z (nats)."""
    result, log_z, square, log_square = None, 0.0, circuit, 0.0
    while True:
        if exponent % 2:
            if result is None:
                result, log_z = square, log_square
            else:
                result, log_mass = _multiplied(result, square)
                log_z += log_square + log_mass
        exponent //= 2
        if exponent == 0:
            return result if result is not None else circuit, log_z
        square, log_mass = _multiplied(square, square)
        log_square = 2 * log_square + log_mass


def _multiplied(a: Circuit, b: Circuit) -> tuple[Circuit, float]:
    """`multiply`, and the log of its Z (nats)."""
    root = walk(a, b, Multiplication()).massed
    return _finished(root, "multiply"), root.log_mass.item()


def _finished(root: Massed, query: str) -> Circuit:
    if root.log_mass.item() == NOTHING:
        raise NoMassError([0], query)
    return finish(root)


def _renumbered(layer: InputLayer, variable: int) -> Massed:
    return Massed(replace(layer, variable=variable), torch.zeros(layer.units, dtype=torch.float64))


def _check_variables(circuit: Circuit, variables: Iterable[Any], name: str) -> None:
    given = list(variables)
    wrong = [
        v for v in given if not (isinstance(v, Integral) and 0 <= int(v) < circuit.num_variables)
    ]
    if wrong or len(set(given)) < len(given):
        raise EvidenceError(
            f"{name}: variables must be different integers in 0..{circuit.num_variables - 1}, "
            f"got {wrong or given}"
        )


def _check_groups(circuit: Circuit, groups: Sequence[Sequence[int]]) -> None:
    """Every 0/1 variable must stand for one value of one variable."""
    check_kinds("groups", groups, Sequence, "a sequence of variables")
    given = sorted(v for group in groups for v in as_wholes("groups", group))
    if not all(groups) or given != list(range(circuit.num_variables)):
        raise StructureError(
            f"groups must share out variables 0..{circuit.num_variables - 1}, none empty: {groups}"
        )
    other = [v for v, count in enumerate(circuit.num_categories) if count != 2]
    if other:
        raise StructureError(f"groups: variable {other[0]} is not 0/1")


def _mask(categories: int | None, variable: int, allowed: Iterable[int]) -> Tensor:
    """Which values are ruled out, [V] bool."""
    values = list(allowed)
    if categories is None or any(not 0 <= value < categories for value in values):
        wanted = f"values in 0..{(categories or 0) - 1}"
        if categories is None:
            wanted = "a finite range (ask queries with `Evidence(lower=, upper=)` in place of that)"
        raise EvidenceError(f"allowed: variable {variable} needs {wanted}, got {values}")
    gone = torch.ones(categories, dtype=torch.bool)
    gone[values] = False
    return gone
