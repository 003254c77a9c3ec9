"""Tables: columns of any kind as variables and back, and how columns depend on one another."""

from pcflow.data import datasets
from pcflow.data.choice import Wish
from pcflow.data.cluster import Labels, kmeans
from pcflow.data.columns import Columns, check_column, unordered
from pcflow.data.dependence import dependent_groups
from pcflow.data.encoding import Encoding
from pcflow.data.form import Form
from pcflow.data.frame import Array, Column, columns_of, is_dict, is_frame, known
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
    "Array",
    "Column",
    "Columns",
    "Encoding",
    "Floats",
    "Form",
    "Labels",
    "Wish",
    "are_values",
    "as_categories",
    "as_table",
    "as_weights",
    "check_column",
    "check_shape",
    "columns_of",
    "datasets",
    "dependent_groups",
    "fit_mixture",
    "is_dict",
    "is_frame",
    "kmeans",
    "known",
    "mutual_information",
    "pair_tables",
    "unordered",
    "weighed",
]
