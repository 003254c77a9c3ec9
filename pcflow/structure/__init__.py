"""Shapes and data to region graphs: how to split the variables."""

from pcflow.structure.chain import chain, fully_factorized
from pcflow.structure.chow_liu import chow_liu_tree
from pcflow.structure.quad import poon_domingos, quad_graph, quad_tree
from pcflow.structure.random_binary import random_binary_tree

__all__ = [
    "chain",
    "chow_liu_tree",
    "fully_factorized",
    "poon_domingos",
    "quad_graph",
    "quad_tree",
    "random_binary_tree",
]
