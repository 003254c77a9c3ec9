"""Propositional formulas, and circuits over their models."""

from pcflow.logic.cnf import CNF
from pcflow.logic.compiler import ModelCount, compile_cnf, model_count

__all__ = [
    "CNF",
    "ModelCount",
    "compile_cnf",
    "model_count",
]
