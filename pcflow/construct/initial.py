"""Parameters to start learning from, taken from data.

Legend: N rows, D variables, K units.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pcflow.checks import check_generator
from pcflow.circuit import Circuit, InputLayer, Parameter
from pcflow.data import check_column, check_shape, weighed
from pcflow.evidence import Numbers
from pcflow.inputs import InputFamily
from pcflow.queries import CompiledCircuit, as_circuit

NOISE = 2.0
"""Standard deviation of what is added to logits, so that units differ."""

AT_A_TIME = 16
"""Units that fill a line of the cache."""


def initialize(
    circuit: Circuit | CompiledCircuit,
    data: Any,
    generator: torch.Generator | None = None,
    *,
    weights: Numbers | None = None,
) -> Circuit:
    """The same circuit with input units that fit the data, each differently.

    Every unit is fitted to its column, whatever scale that has. Then units are moved apart: logits
    by normal noise, other parameters by giving a single row, drawn at random, as much weight as all
    of them together. Weights of sums stay as they are.

    Args:
        circuit: the circuit; it is not changed.
        data: rows [N, D] of numbers; NaN is a missing value.
        generator: source of noise and rows; torch's global one by default.
        weights: how much every row counts [N], from zero up.

    Returns:
        A new circuit of the same structure.

    Raises:
        EvidenceError: if the data are not such rows, or a column holds no value or one that its
            family does not allow; or if the weights are not such numbers.

    Examples:
        >>> import pcflow as pf
        >>> circuit = pf.hmm(2, states=3, inputs=pf.Gaussian())
        >>> data = 1000 + torch.randn(50, 2)
        >>> bool(pf.compile(pf.initialize(circuit, data)).log_prob(data).mean() > -5)
        True
    """
    circuit = as_circuit(circuit)
    check_generator(generator)
    rows, counts = weighed(data, weights)
    check_shape("data", rows.shape, circuit.num_variables)
    table = torch.from_numpy(rows)
    one = torch.ones(len(table)) if counts is None else torch.from_numpy(counts)
    columns: dict[Parameter, list[int]] = {}
    layers = [layer for layer in circuit.layers if isinstance(layer, InputLayer)]
    for layer in layers:
        for parameter in layer.parameters.values():
            columns.setdefault(parameter, []).append(layer.variable)
    values: dict[Parameter, Tensor] = {}
    for layer in layers:
        named = layer.parameters
        if not values.keys() >= set(named.values()):
            shared = sorted({v for p in named.values() for v in columns[p]})
            for v in shared:
                check_column(v, table[:, v], layer.family)
            pooled = table[:, shared].flatten()
            every = one.double().repeat_interleave(len(shared))
            found = initial_units(layer.family, pooled, every, layer.units, generator)
            # locations in double, which what compiles it rounds: a column may lie far from zero
            values.update({p: found[name].to(p.value.device) for name, p in named.items()})
    return circuit.replace(values)


def initial_units(
    family: InputFamily,
    column: Tensor,
    weight: Tensor,
    units: int,
    generator: torch.Generator | None,
) -> dict[str, Tensor]:
    """Parameters of units that fit a column [N] with weights [N], moved apart."""
    weight = weight.masked_fill(column.isnan(), 0.0)
    if weight.sum() == 0:
        weight = (~column.isnan()).double()
    weight = weight.unsqueeze(-1)  # [N, 1]
    if "logits" in family.parameter_shapes(units):
        alike = family.fitted(column, weight, pseudocount=1.0)  # one unit stands for all of them
        shape, middle = family.parameter_shapes(units)["logits"], alike.pop("logits")
        logits = torch.randn(shape, generator=generator).mul_(NOISE)
        for some in logits.split(AT_A_TIME, dim=-1):
            some.add_(middle)  # rounded once, and never all of them in double
        rest = {name: p.repeat_interleave(units, dim=-1) for name, p in alike.items()}
        return {"logits": logits, **rest}
    shares = (weight / weight.sum()).repeat(1, units)  # [N, K]
    row = torch.multinomial(weight.squeeze(-1), units, replacement=True, generator=generator)
    shares[row, torch.arange(units)] += 1.0
    return family.fitted(column, shares)
