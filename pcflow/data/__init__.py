"""Tables of numbers: columns as variables and back, and how columns depend on one another."""

from pcflow.data import datasets
from pcflow.data.cluster import Labels, kmeans
from pcflow.data.columns import Columns, check_column, unordered
from pcflow.data.dependence import dependent_groups
from pcflow.data.encoding import Coded, Encoding
from pcflow.data.mixture_em import fit_mixture
from pcflow.data.table import (
    MOST_VALUES,
    Floats,
    are_values,
    as_categories,
    as_table,
    as_weights,
    check_shape,
    mutual_information,
    pair_tables,
    weighed,
)

__all__ = [
    "MOST_VALUES",
    "Coded",
    "Columns",
    "Encoding",
    "Floats",
    "Labels",
    "are_values",
    "as_categories",
    "as_table",
    "as_weights",
    "check_column",
    "check_shape",
    "datasets",
    "dependent_groups",
    "fit_mixture",
    "kmeans",
    "mutual_information",
    "pair_tables",
    "unordered",
    "weighed",
]
