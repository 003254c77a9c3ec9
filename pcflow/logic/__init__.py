"""Propositional formulas, and circuits over their models."""

from pcflow.logic.cnf import CNF
from pcflow.logic.compiler import ModelCount, compile_cnf, model_count
from pcflow.logic.dimacs import read_dimacs, write_dimacs

__all__ = [
    "CNF",
    "ModelCount",
    "compile_cnf",
    "model_count",
    "read_dimacs",
    "write_dimacs",
]
