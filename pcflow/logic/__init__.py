"""What values may be: formulas with circuits over their models, and automata for sequences."""

from pcflow.logic.automata import Automaton, times
from pcflow.logic.cnf import CNF
from pcflow.logic.compiler import ModelCount, compile_cnf, model_count
from pcflow.logic.nnf import MOST_BITS, TRUE, Formula, Node, NormalForm

__all__ = [
    "CNF",
    "MOST_BITS",
    "TRUE",
    "Automaton",
    "Formula",
    "ModelCount",
    "Node",
    "NormalForm",
    "compile_cnf",
    "model_count",
    "times",
]
