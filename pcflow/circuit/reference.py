"""The plain evaluator: one line per layer, float64, ordinary autograd.

It shares nothing with the engine but the circuit, so it is the oracle of the engine's tests, and
the way to second derivatives. Slow on purpose. Legend: B batch, K units, V categories, U intervals.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pcflow.checks import check_kind
from pcflow.circuit.circuit import Circuit
from pcflow.circuit.layers import InputLayer, Parameter, ProductLayer, SumLayer
from pcflow.evidence import CheckedEvidence, Domain, Evidence, Numbers, check
from pcflow.inputs import DensityFamily, FiniteFamily, Params, log_sum


def reference_log_prob(
    circuit: Circuit,
    evidence: Evidence | Numbers,
    parameters: Mapping[Parameter, Tensor] | None = None,
) -> Tensor:
    """Log-probability [B] (nats, float64) of the evidence, layer by layer.

    Args:
        circuit: any circuit.
        evidence: values [B, D] or Evidence.
        parameters: tensors to use in place of the circuit's own values, for derivatives.

    Returns:
        Log-probabilities [B], in nats.

    Raises:
        EvidenceError: if the evidence does not fit the circuit.

    Examples:
        >>> import pcflow as pf
        >>> circuit = pf.hmm(3, states=2, inputs=pf.Bernoulli())
        >>> reference_log_prob(circuit, torch.zeros(4, 3)).shape
        torch.Size([4])
    """
    check_kind("circuit", circuit, Circuit, "a Circuit")
    given = {} if parameters is None else parameters
    check_kind("parameters", given, Mapping, "a mapping from parameters to tensors")
    values = {p: given.get(p, p.value).to(torch.float64) for p in circuit.parameters}
    device = next(iter(values.values())).device if values else torch.device("cpu")
    domain = Domain(circuit.num_categories, device, torch.float64)
    known = check(evidence, domain).of_shared("reference_log_prob")

    def at_input(layer: InputLayer) -> Tensor:
        return unit_log_probs(layer, known, values)

    def at_sum(layer: SumLayer, below: Sequence[Tensor]) -> Tensor:
        return log_sum(layer.read(below) + values[layer.weight].log_softmax(dim=-1), dim=-1)

    def at_product(layer: ProductLayer, below: Sequence[Tensor]) -> Tensor:
        return layer.combine(below, torch.add)

    return circuit.fold(at_input, at_sum, at_product).squeeze(-1)


def unit_log_probs(
    layer: InputLayer, known: CheckedEvidence, values: Mapping[Parameter, Tensor]
) -> Tensor:
    """Log-values [B, K] of input units under evidence, from float64 parameters."""
    params = {name: values[p].unsqueeze(0) for name, p in layer.parameters.items()}
    x, missing = known.values[:, layer.variable], known.missing[:, layer.variable]
    family = layer.family
    if isinstance(family, DensityFamily):
        observed = family.log_prob(params, x.unsqueeze(0)).squeeze(0)  # [B, K]
        hidden = _log_mass(layer.variable, family, params, known)
        return torch.where(missing.unsqueeze(-1), hidden, observed)
    assert isinstance(family, FiniteFamily)
    table = family.log_table(params).squeeze(0)  # [V, K]
    one_hot = torch.nn.functional.one_hot(x.long(), len(table)).to(torch.float64).log()  # [B, V]
    soft = torch.zeros_like(one_hot)
    if known.potentials is not None:
        every = known.potentials[:, layer.variable].dense(known.domain.largest)  # [B, V]
        soft = every[:, : len(table)]
    potential = torch.where(missing.unsqueeze(-1), soft, one_hot)
    return log_sum(potential.unsqueeze(-1) + table.to(potential), dim=-2)  # [B, K]


def _log_mass(
    variable: int, family: DensityFamily, params: Params, known: CheckedEvidence
) -> Tensor:
    """Log-masses [B, K] of intervals of a variable; zero where it is not bounded."""
    if known.lower is None or known.upper is None:
        return torch.zeros(1, 1, dtype=torch.float64, device=known.values.device)
    lower, upper = known.lower[:, variable], known.upper[:, variable]  # [B, U]
    there = ~lower.isnan().unsqueeze(-1)
    ends = (end.masked_fill(end.isnan(), 0.0).reshape(1, -1) for end in (lower, upper))
    each = family.log_mass(params, *ends).squeeze(0).unflatten(0, lower.shape)  # [B, U, K]
    mass = log_sum(torch.where(there, each, -torch.inf), dim=1)
    return torch.where(there.any(dim=1), mass, 0.0)
