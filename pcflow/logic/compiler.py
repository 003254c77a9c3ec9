"""CNFs to circuits and counts, from the trace of a search.

Legend: D variables.
"""

from __future__ import annotations

from math import exp, log, prod
from typing import NamedTuple

import torch
from torch import Tensor

from pcflow.checks import check_kind, check_tensor
from pcflow.circuit import Circuit, InputLayer, Layer, Parameter, ProductLayer, SumLayer
from pcflow.errors import StructureError, Unsatisfiable
from pcflow.inputs import Bernoulli, Indicator
from pcflow.logic.cnf import CNF
from pcflow.logic.search import Branch, Component, Trace, positions, search


class ModelCount(NamedTuple):
    """A distribution over the models of a formula, and how much they weigh.

    Attributes:
        circuit: p(x) = prod_v w_v(x_v) / weighted count for models x, zero for other states.
        log_count: logarithm (nats) of the weighted count; without weights, of the number of models.

    Examples:
        >>> circuit, log_count = compile_cnf(CNF([[1, 2]], 2))  # one of two, or both
        >>> round(2.718**log_count)
        3
    """

    circuit: Circuit
    log_count: float


def compile_cnf(cnf: CNF, log_weights: Tensor | None = None, ordered: bool = False) -> ModelCount:
    """Compile a formula into a smooth, deterministic and decomposable circuit over its models.

    Weighted model counting (Chavira and Darwiche 2008): values of variables have weights, a model
    weighs their product. The circuit is the trace of a search that splits what is independent and
    solves what comes again once (a decision-DNNF, Huang and Darwiche 2007), with variables that a
    branch leaves free added. Time and size are exponential in the worst case, and in the width of
    a tree decomposition of the formula at most.

    Args:
        cnf: the formula.
        log_weights: [D, 2], log w_v(0) and log w_v(1) of every variable; -inf forbids a value.
            By default zeros: models are counted, and the circuit is uniform over them.
        ordered: decide variables in the order 0, 1, ..., D - 1: every product splits one variable
            from all later ones, as in `hmm`. Such a circuit is often larger.

    Returns:
        The circuit, and the logarithm (nats) of the number of models, or of their weights' sum.

    Raises:
        Unsatisfiable: if no model has any weight.
        StructureError: if there are no variables, or the weights are not [D, 2], NaN or infinite.

    Examples:
        >>> circuit, log_count = compile_cnf(CNF([(-1, 2)]))  # x0 implies x1
        >>> print(circuit)
        Circuit(2 variables, 7 layers, 3 parameters)
        >>> round(exp(log_count), 6)
        3.0
    """
    check_kind("cnf", cnf, CNF, "a CNF")
    if cnf.num_variables == 0:
        raise StructureError("a circuit needs at least one variable, the formula has none")
    weights = _checked(log_weights, cnf.num_variables)  # [D, 2]
    forbidden = [
        (variable if value == 0 else -variable,)
        for variable, pair in enumerate((weights == -torch.inf).tolist(), start=1)
        for value in (0, 1)
        if pair[value]
    ]
    allowed = CNF([*cnf.clauses, *forbidden], cnf.num_variables)
    trace = search(allowed, ordered)
    if trace.root is None:
        raise Unsatisfiable(allowed)
    whole = _Builder(trace, weights).branch(trace.scope, trace.root)
    return ModelCount(Circuit(whole.layer), whole.log_mass + weights.logsumexp(-1).sum().item())


def model_count(cnf: CNF) -> int:
    """The number of models of a formula, exactly; zero if it cannot be satisfied.

    Args:
        cnf: the formula; variables that no clause names double the count.

    Returns:
        The number, of any size.

    Examples:
        >>> model_count(CNF([(1, 2)], num_variables=100)) == 3 * 2**98
        True
    """
    check_kind("cnf", cnf, CNF, "a CNF")
    trace = search(cnf)
    if trace.root is None:
        return 0
    counts: dict[Component, int] = {}

    def models(scope: int, branch: Branch) -> int:
        return prod(counts[part] for part in branch.parts) << trace.free(scope, branch).bit_count()

    for component, branches in trace.branches.items():
        counts[component] = sum(models(component.scope, branch) for branch in branches)
    return models(trace.scope, trace.root)


def _checked(log_weights: Tensor | None, num_variables: int) -> Tensor:
    """Weights [D, 2] in float64."""
    if log_weights is None:
        return torch.zeros(num_variables, 2, dtype=torch.float64)
    check_tensor("log_weights", log_weights)
    if log_weights.shape != (num_variables, 2):
        raise StructureError(
            f"log_weights must be [{num_variables}, 2], got {tuple(log_weights.shape)}"
        )
    weights = log_weights.detach().to("cpu", torch.float64)
    wrong = (weights.isnan() | (weights == torch.inf)).any(-1).nonzero().flatten().tolist()
    if wrong:
        raise StructureError(f"log_weights of variable {wrong[0]} are NaN or +inf")
    return weights


class _Part(NamedTuple):
    """A layer, and the logarithm of the probability that it stands for."""

    layer: Layer
    log_mass: float


class _Builder:
    """Layers from a trace, bottom up; what is shared in the trace is shared in the circuit.

    Weights are made to add up to one, so that free variables weigh nothing.
    """

    def __init__(self, trace: Trace, weights: Tensor) -> None:
        self.trace = trace
        self.log_probs = weights.log_softmax(-1).tolist()
        self.literals = [
            [InputLayer(v, Indicator(value)) for value in (0, 1)] for v in range(len(weights))
        ]
        self.free = [
            InputLayer(v, Bernoulli(), parameters={"logits": Parameter(odds)})
            for v, odds in enumerate((weights[:, 1] - weights[:, 0]).split(1))
        ]
        self.parts: dict[Component, _Part] = {}
        for component, branches in trace.branches.items():
            self.parts[component] = _choose([self.branch(component.scope, b) for b in branches])

    def branch(self, scope: int, branch: Branch) -> _Part:
        """What was decided, what is left free and the components, multiplied."""
        decided = [divmod(place, self.trace.num_variables) for place in positions(branch.literals)]
        below = [self.parts[part] for part in branch.parts]
        layers: list[Layer] = [self.literals[v][1 - upper] for upper, v in decided]
        layers += [self.free[v] for v in positions(self.trace.free(scope, branch))]
        layers += [part.layer for part in below]
        log_mass = sum(self.log_probs[v][1 - upper] for upper, v in decided)
        log_mass += sum(part.log_mass for part in below)
        return _Part(layers[0] if len(layers) == 1 else ProductLayer(layers), log_mass)


def _choose(branches: list[_Part]) -> _Part:
    """The mixture of branches that exclude each other, by their masses."""
    if len(branches) == 1:
        return branches[0]
    most = max(branch.log_mass for branch in branches)
    total = most + log(sum(exp(branch.log_mass - most) for branch in branches))
    weight = torch.tensor([[b.log_mass - total for b in branches]], dtype=torch.float64)
    return _Part(SumLayer([branch.layer for branch in branches], Parameter(weight)), total)
