"""Circuit to circuit: more units where one is trained, fewer where they do nothing.

Both are one operation: every layer is rebuilt from chosen units of its old self.
Legend: K units, J units read by a sum, H inputs of a mixing sum.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pcflow.checks import check_generator, check_kind, check_whole
from pcflow.circuit import Circuit, Parameter, SumLayer, alike, kept, read_units, rebuild
from pcflow.errors import SettingError
from pcflow.learn.counts import Counts, Layout
from pcflow.learn.data import Data, Source
from pcflow.learn.team import ALONE
from pcflow.queries import CompiledCircuit, as_circuit

BATCH = 512
"""Rows at a time."""


def grow(
    circuit: Circuit | CompiledCircuit,
    copies: int = 2,
    noise: float = 0.3,
    generator: torch.Generator | None = None,
) -> Circuit:
    """Every unit becomes several that start almost alike (Dang, Liu, Van den Broeck 2022).

    A trained circuit that is grown and trained on reaches better optima than a large random one.
    The copies of a unit share its weight; without noise the distribution stays what it was. A root
    that is no dense sum gets one on top, to mix its copies. What is read unit by unit beside a
    Kronecker product keeps its units, as does what this product reads: its copies would not match.

    Args:
        circuit: the circuit; it is not changed.
        copies: of every unit but the root.
        noise: standard deviation of what is added to the logarithm of every weight.
        generator: source of the noise; torch's global one by default.

    Returns:
        A new circuit with `copies` times as many units, over the same variables.

    Raises:
        SettingError: if `copies` is below 1 or `noise` negative.

    Examples:
        >>> import pcflow as pf
        >>> print(pf.grow(pf.hmm(4, states=3, inputs=pf.Categorical(2))))
        Circuit(4 variables, 11 layers, 54 parameters)
    """
    circuit = as_circuit(circuit)
    check_whole("copies", copies)
    SettingError.check("noise", noise, "at least 0", lambda x: 0 <= x < math.inf)
    check_generator(generator)

    def shaken(weight: Tensor) -> Tensor:
        return weight + noise * torch.randn(weight.shape, generator=generator).to(weight)

    if not isinstance(circuit.root, SumLayer) or circuit.root.mixing:  # it reads unit by unit
        circuit = Circuit(SumLayer([circuit.root], Parameter(torch.zeros(1, 1))))
    once = kept(alike(circuit)) | {circuit.root}
    times = {layer: 1 if layer in once else copies for layer in circuit.layers}
    chosen = {la: torch.arange(la.units).repeat_interleave(n) for la, n in times.items()}
    return rebuild(circuit, chosen, shaken)


@torch.no_grad()
def prune(model: CompiledCircuit, data: Data, keep: float = 1.0) -> Circuit:
    """Drop the edges that data use least, and then the units that nobody reads.

    Every sum unit keeps its most used edge (Dang, Liu, Van den Broeck 2022). Train on afterwards.

    Args:
        model: a trained circuit; it is not changed.
        data: rows [N, D] whose flows are counted, of any kind that `fit` takes; NaN is a missing
            value.
        keep: share of the edges to keep, in (0, 1]; 1 drops only edges without any flow.

    Returns:
        A new circuit over the same variables, with fewer edges.

    Raises:
        SettingError: if `keep` is out of range.
        TypeMismatch: if something is given of the rows.
        EvidenceError: if the data do not fit the circuit.
        NoMassError: if the model gives a row probability zero.

    Examples:
        >>> import pcflow as pf
        >>> model = pf.compile(pf.hmm(4, states=3, inputs=pf.Categorical(2)))
        >>> smaller = pf.prune(model, torch.randint(2, (50, 4)), keep=0.5)
        >>> smaller.num_variables
        4
    """
    check_kind("model", model, CompiledCircuit, "a CompiledCircuit")
    SettingError.check("keep", keep, "in (0, 1]", lambda share: 0 < share <= 1)
    counts = Counts(Layout(model.engine.counting))
    for batch in Source("data", data, model.num_variables, BATCH, ALONE).in_order():
        counts.add(batch.unconditional())
    circuit = model.engine.structure.replace(_without_least_flow(model, counts, keep))
    return rebuild(circuit, read_units(circuit), lambda weight: weight)


def _without_least_flow(
    model: CompiledCircuit, counts: Counts, keep: float
) -> dict[Parameter, Tensor]:
    """The model's parameters with -inf at the edges that go."""
    flows = counts.weights.found  # [P, K, J] by bank
    present = {bank: model.banks[bank].detach() > -torch.inf for bank in flows}
    used = [flow[present[bank]] for bank, flow in flows.items()]
    every = torch.cat(used) if used else torch.zeros(1)  # a circuit may have no sum
    least = every.sort(descending=True).values[math.ceil(keep * len(every)) - 1]
    values = [bank.detach() for bank in model.banks]
    for bank, flow in flows.items():
        most = flow.masked_fill(~present[bank], -1.0).argmax(dim=-1, keepdim=True)
        most_used = torch.zeros_like(present[bank]).scatter_(-1, most, True)
        kept = present[bank] & ((flow >= least) & (flow > 0) | most_used)
        values[bank] = values[bank].masked_fill(~kept, -torch.inf)
    pairs = zip(model.plan.banks, values, strict=True)
    return {p: v for members, bank in pairs for p, v in zip(members, bank.cpu(), strict=True)}
