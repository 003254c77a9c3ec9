"""Circuits from trees of dependence: Chow-Liu distributions, mixtures of them, hidden ones (HCLT).

Legend: N rows, D variables, V values, K units or components.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcflow.checks import check_generator, check_whole
from pcflow.circuit import Circuit, InputLayer, Layer, Parameter, ProductLayer, SumLayer
from pcflow.construct.initial import initial_units
from pcflow.construct.regions import Inputs, per_variable
from pcflow.data import (
    MOST_VALUES,
    Columns,
    Floats,
    Labels,
    are_values,
    as_categories,
    as_table,
    fit_mixture,
    kmeans,
    pair_tables,
    unordered,
    weighed,
)
from pcflow.errors import EvidenceError, SettingError
from pcflow.evidence import Numbers
from pcflow.inputs import Indicator
from pcflow.queries import compile
from pcflow.structure import DependenceTree, dependence_tree


def chow_liu(data: Any, alpha: float = 1.0, *, weights: Numbers | None = None) -> Circuit:
    """The Chow-Liu tree distribution with its parameters: nothing is left to learn.

    The best tree-shaped distribution of the data in likelihood (Chow and Liu 1968), a deterministic
    circuit: its MPE is exact.

    Args:
        data: rows [N, D] of whole numbers 0, 1, ... below 4,096; NaN is a missing value.
        alpha: added to the count of every pair of values.
        weights: how much every row counts [N], from zero up.

    Returns:
        A deterministic circuit over the columns of the data.

    Raises:
        SettingError: if alpha is negative.
        EvidenceError: if the data are not such rows, or the weights not such numbers.

    Examples:
        >>> import pcflow as pf
        >>> data = torch.tensor([[0, 0], [0, 0], [1, 1], [1, 1]])
        >>> pf.compile(chow_liu(data)).log_prob(data).exp().detach()
        tensor([0.3750, 0.3750, 0.3750, 0.3750])
    """
    SettingError.check("alpha", alpha, "at least 0", lambda a: 0 <= a < torch.inf)
    table, counts = weighed(data, weights)
    columns, sizes = _whole_numbers(table)
    return Circuit(_tree(columns, sizes, alpha, counts))


def mixture_of_trees(
    data: Any,
    components: int,
    alpha: float = 1.0,
    generator: torch.Generator | None = None,
) -> Circuit:
    """A mixture of Chow-Liu tree distributions, each with a tree of its own.

    Learned by EM from clusters of rows: every round fits structure and parameters of every tree to
    rows weighted by its share of them (Meila and Jordan 2000).

    Args:
        data: rows [N, D] of whole numbers 0, 1, ... below 4,096; NaN is a missing value.
        components: number of trees, K.
        alpha: added to the count of every pair of values, in every tree.
        generator: source of the first clusters; torch's global one by default.

    Returns:
        A circuit over the columns of the data.

    Raises:
        SettingError: if an argument is not positive.
        EvidenceError: if the data are not such rows.

    Examples:
        >>> import pcflow as pf
        >>> data = torch.randint(2, (50, 4))
        >>> pf.mixture_of_trees(data, components=2).num_categories
        (2, 2, 2, 2)
    """
    check_whole("components", components)
    SettingError.check("alpha", alpha, "positive", lambda a: 0 < a < torch.inf)
    check_generator(generator)
    columns, sizes = _whole_numbers(data)
    rows = torch.from_numpy(columns)

    @torch.no_grad()
    def step(share: Tensor) -> tuple[SumLayer, Tensor]:
        weight = share.mean(dim=0, keepdim=True)  # [1, K]
        trees = [_tree(columns, sizes, alpha, s) for s in share.t().numpy()]
        models = [compile(Circuit(tree), dtype=torch.float64) for tree in trees]
        root = SumLayer(trees, Parameter.from_probs(weight))
        return root, torch.stack([m.log_prob(rows) for m in models], dim=1) + weight.log()

    seed = int(torch.randint(2**31, (), generator=generator))
    label = kmeans(columns, sizes, components, np.random.default_rng(seed))
    return Circuit(fit_mixture(torch.from_numpy(label), components, step)[0])


def hclt(
    data: Any,
    units: int,
    inputs: Inputs,
    trees: int = 1,
    generator: torch.Generator | None = None,
    *,
    weights: Numbers | None = None,
) -> Circuit:
    """A hidden Chow-Liu tree (Liu and Van den Broeck 2021), to be trained; or a mixture of some.

    Every variable of the Chow-Liu tree gets a hidden one of `units` states in its place, from which
    it is emitted. Input units start from the data (see `initialize`), weights at random. Several
    trees come from clusters of rows (k-means), and the root mixes them: a few trees of few
    units often fit better than a single one of many.

    Args:
        data: rows [N, D] from which the trees are learned; columns of families without a finite
            range are counted by quantiles, and so are numbers from 4,096 on.
        units: states of every hidden variable, K.
        inputs: one input family for all variables, or one per variable.
        trees: how many, at most; clusters may be empty.
        generator: source of the initial parameters; torch's global one by default.
        weights: how much every row counts [N], from zero up, in trees and input units; clusters are
            found as if all did alike.

    Returns:
        A circuit over the columns of the data.

    Raises:
        SettingError: if `units` or `trees` is below 1.
        StructureError: if `inputs` are too few.
        EvidenceError: if the data are not rows, or a column holds no value or one that its family
            does not allow; or if the weights are not such numbers.

    Examples:
        >>> import pcflow as pf
        >>> data = torch.randint(2, (50, 4))
        >>> hclt(data, units=3, inputs=pf.Bernoulli()).num_variables
        4
    """
    check_whole("units", units)
    check_whole("trees", trees)
    check_generator(generator)
    rows, given = weighed(data, weights)
    table = Columns(rows, per_variable(inputs, rows.shape[1]))
    columns, _ = as_categories(rows, [f.num_categories is None for f in table.families])
    label: Labels = np.zeros(len(columns), dtype=np.int64)
    if trees > 1:
        seed = int(torch.randint(2**31, (), generator=generator))
        sizes = [unordered(family) for family in table.families]
        label = kmeans(table.values.numpy(), sizes, trees, np.random.default_rng(seed))
    counts = np.ones(len(rows)) if given is None else given
    members = [counts * (label == k) for k in np.unique(label)]
    roots = [_hidden_tree(table, columns, some, units, generator) for some in members]
    sizes_of = torch.tensor([[some.sum() for some in members]], dtype=torch.float64)
    mixed = SumLayer(roots, Parameter.from_probs(sizes_of / counts.sum()))
    return Circuit(roots[0] if len(roots) == 1 else mixed)


def _hidden_tree(
    table: Columns,
    columns: Floats,
    weights: Floats,
    units: int,
    generator: torch.Generator | None,
) -> SumLayer:
    """The hidden tree of rows with weights [N]."""
    tree = dependence_tree(columns, weight=weights)

    def top(v: int) -> InputLayer:
        family, column = table.families[v], table.values[:, v]
        found = initial_units(family, column, torch.from_numpy(weights), units, generator)
        named = {name: Parameter(p) for name, p in found.items()}
        return InputLayer(v, family, units, named)

    def weight(v: int) -> Parameter:
        above = 1 if tree.parent[v] < 0 else units
        return Parameter(torch.randn(above, units, generator=generator))

    return _along(tree, top, weight)


def _whole_numbers(data: Any) -> tuple[Floats, tuple[int, ...]]:
    """Columns [N, D] and how many values each has; refuses what would have to be binned."""
    given = as_table(data)
    wrong = np.isfinite(given) & ~are_values(given)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        wanted = f"columns of whole numbers 0, 1, ... below {MOST_VALUES}; see hclt"
        found = f"column {column} holds {given[row, column]:g}"
        raise EvidenceError(f"trees of values need {wanted}; {found}")
    return as_categories(given)


def _tree(
    columns: Floats, sizes: Sequence[int], alpha: float, rows: Floats | None = None
) -> SumLayer:
    """The tree distribution of rows that count once, or with a weight [N] of their own."""
    tree = dependence_tree(columns, alpha, rows)
    joint = list(pair_tables(columns, sizes, alpha, rows))

    def weight(variable: int) -> Floats:
        """Distributions of a variable, one for every value of its parent: [V_parent or 1, V]."""
        above, below = tree.parent[variable], tree.children(variable)
        if above >= 0:
            return _rows_to_one(joint[above][variable])
        own = joint[variable][below[0]].sum(axis=1) if below else np.diag(joint[variable][variable])
        return _rows_to_one(own[None])

    def top(variable: int) -> InputLayer:
        size = sizes[variable]
        return InputLayer(variable, Indicator(range(size), size), size)

    return _along(tree, top, lambda v: Parameter.from_probs(torch.from_numpy(weight(v))))


def _along(
    tree: DependenceTree,
    top: Callable[[int], InputLayer],
    weight: Callable[[int], Parameter],
) -> SumLayer:
    """For every variable: its input units times what hangs below, summed by its weight."""
    sums: dict[int, SumLayer] = {}
    for variable in reversed(tree.order):
        layers: list[Layer] = [top(variable), *(sums[child] for child in tree.children(variable))]
        value = layers[0] if len(layers) == 1 else ProductLayer(layers)
        sums[variable] = SumLayer([value], weight(variable))
    return sums[tree.order[0]]


def _rows_to_one(table: Floats) -> Floats:
    """Rows divided by their sums; uniform where there is nothing."""
    total = table.sum(axis=1, keepdims=True)
    uniform = np.full(table.shape, 1 / table.shape[1])
    np.divide(table, total, out=uniform, where=total > 0)
    return uniform
