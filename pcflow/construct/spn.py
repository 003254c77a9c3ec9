"""LearnSPN: a circuit from data, by splitting columns that are independent and rows that are alike.

Legend: N rows, D columns, K clusters.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pcflow.checks import check_generator, check_whole
from pcflow.circuit import Circuit, InputLayer, Layer, Parameter, ProductLayer, SumLayer
from pcflow.construct.regions import Inputs, per_variable
from pcflow.data import Columns, as_table, dependent_groups, fit_mixture, kmeans, unordered
from pcflow.errors import SettingError


def learn_spn(
    data: Any,
    inputs: Inputs,
    *,
    min_rows: int = 50,
    significance: float = 0.01,
    clusters: int = 2,
    clustering: Literal["em", "kmeans"] = "em",
    pseudocount: float = 1.0,
    generator: torch.Generator | None = None,
) -> Circuit:
    """Learn structure and parameters at once (LearnSPN, Gens and Domingos 2013).

    A slice of the data, rows by columns, is split into its independent groups of columns (a
    product); if there is only one, its rows are clustered (a sum). Few rows, or rows that do not
    fall apart, are a product of single columns. Pairs of categorical columns are held
    independent by a G-test, others by Bartlett's test on the canonical correlations of the
    randomised dependence coefficient (Lopez-Paz et al. 2013).

    Args:
        data: rows [N, D] of numbers; NaN is a missing value.
        inputs: one input family for all columns, or one per column.
        min_rows: slices of fewer rows are not split further.
        significance: probability, at most, that independent columns of a slice are held dependent.
        clusters: into how many clusters to split rows, at least 2.
        clustering: "em" fits a mixture of independent columns, of their own families; "kmeans"
            compares one-hot and standardised columns.
        pseudocount: observations that are added to every input unit, like the whole column, and to
            every cluster.
        generator: source of the random features and first centres; torch's global one by default.

    Returns:
        A circuit over the columns of the data, with nothing left to train.

    Raises:
        SettingError: if an argument is out of range.
        StructureError: if `inputs` are too few.
        EvidenceError: if the data are not such rows, or a column holds no value, or one that its
            family does not allow.

    Examples:
        >>> import pcflow as pf
        >>> x = torch.randint(2, (200, 1), generator=torch.Generator().manual_seed(0))
        >>> print(pf.learn_spn(torch.cat([x, x], dim=1), pf.Bernoulli()))
        Circuit(2 variables, 7 layers, 6 parameters)
    """
    check_whole("min_rows", min_rows, least=2)
    check_whole("clusters", clusters, least=2)
    SettingError.check("significance", significance, "between 0 and 1", lambda p: 0 < p < 1)
    SettingError.check("pseudocount", pseudocount, "at least 0", lambda a: 0 <= a < torch.inf)
    ways = ("em", "kmeans")
    SettingError.check("clustering", clustering, '"em" or "kmeans"', lambda way: way in ways)
    check_generator(generator)
    table = as_table(data)
    columns = Columns(table, per_variable(inputs, table.shape[1]))
    seed = int(torch.randint(2**31, (), generator=generator))
    learner = _Learner(columns, min_rows, significance, clusters, clustering, pseudocount, seed)
    return Circuit(learner.layer(_Slice(torch.arange(len(table)), tuple(range(table.shape[1])))))


@dataclass(eq=False)
class _Slice:
    """Rows by variables, and what they were split into.

    Attributes:
        rows: indices of rows.
        variables: indices of columns.
        connected: whether the columns are known to be a single group.
        parts: slices of fewer rows or of fewer variables; none if all columns are independent.
    """

    rows: Tensor
    variables: tuple[int, ...]
    connected: bool = False
    parts: list[_Slice] = field(default_factory=list)


@dataclass
class _Learner:
    columns: Columns
    min_rows: int
    significance: float
    clusters: int
    clustering: str
    pseudocount: float
    seed: int

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.sizes = [unordered(family) for family in self.columns.families]

    def layer(self, root: _Slice) -> Layer:
        """The root layer. Lists in place of recursion: splits may be as deep as there are rows."""
        slices = [root]
        for part in slices:
            part.parts = self.split(part)
            slices.extend(part.parts)
        built: dict[_Slice, Layer] = {}
        for part in reversed(slices):
            built[part] = self.join(part, [built[p] for p in part.parts])
        return built[root]

    def split(self, part: _Slice) -> list[_Slice]:
        if len(part.variables) == 1 or len(part.rows) < self.min_rows:
            return []
        values = self.columns.values[part.rows][:, part.variables].numpy()
        sizes = [self.sizes[v] for v in part.variables]
        if not part.connected:
            groups = dependent_groups(values, sizes, self.significance, self.rng)
            if len(groups) > 1:
                names = [tuple(part.variables[v] for v in group) for group in groups]
                return [_Slice(part.rows, group, connected=True) for group in names]
        label = torch.from_numpy(kmeans(values, sizes, self.clusters, self.rng))
        if self.clustering == "em":
            label = self.mixture(part, label)
        members = [part.rows[label == k] for k in range(self.clusters)]
        parts = [replace(part, rows=rows, connected=False) for rows in members if len(rows) > 0]
        return parts if len(parts) > 1 else []

    def mixture(self, part: _Slice, label: Tensor) -> Tensor:
        """Labels [N] after EM on a mixture of independent columns, from those given."""

        def step(share: Tensor) -> tuple[None, Tensor]:
            fitted = self.columns.fit(part.rows, part.variables, share, self.pseudocount)
            return None, self.columns.score(part.rows, fitted) + share.mean(dim=0).log()

        return fit_mixture(label, self.clusters, step)[1].argmax(dim=1)

    def join(self, part: _Slice, below: list[Layer]) -> Layer:
        if not below:
            return self.independent(part)
        if part.parts[0].variables != part.variables:
            return ProductLayer(below)
        count = torch.tensor([[len(p.rows) for p in part.parts]], dtype=torch.float64)
        count = count + self.pseudocount
        return SumLayer(below, Parameter.from_probs(count / count.sum()))

    def independent(self, part: _Slice) -> Layer:
        """A unit for every column, multiplied."""
        one = torch.ones(len(part.rows), 1, dtype=torch.float64)
        found = self.columns.fit(part.rows, part.variables, one, self.pseudocount)
        layers: dict[int, Layer] = {}
        for family, (members, params) in found.items():
            for place, v in enumerate(members):
                own = {name: Parameter(p[place]) for name, p in params.items()}
                layers[v] = InputLayer(v, family, 1, own)
        inputs = [layers[v] for v in part.variables]
        return inputs[0] if len(inputs) == 1 else ProductLayer(inputs)
