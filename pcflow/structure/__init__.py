"""Region graphs: how variables are split, from shapes or from data."""

from pcflow.structure.chain import chain, fully_factorized
from pcflow.structure.chow_liu import DependenceTree, chow_liu_tree, dependence_tree
from pcflow.structure.quad import poon_domingos, quad_graph, quad_tree
from pcflow.structure.random_binary import random_binary_tree
from pcflow.structure.region_graph import Partition, Region, RegionGraph
from pcflow.structure.spans import Span, joined

__all__ = [
    "DependenceTree",
    "Partition",
    "Region",
    "RegionGraph",
    "Span",
    "chain",
    "chow_liu_tree",
    "dependence_tree",
    "fully_factorized",
    "joined",
    "poon_domingos",
    "quad_graph",
    "quad_tree",
    "random_binary_tree",
]
