"""Circuits in, circuits or numbers out: condition, marginalise, multiply, integrate."""

from pcflow.algebra.elimination import eliminate
from pcflow.algebra.overlap import covered, log_overlap
from pcflow.algebra.transform import (
    condition,
    from_one_hot,
    marginalize,
    mixture,
    multiply,
    power,
    powered_circuit,
    restrict,
)

__all__ = [
    "condition",
    "covered",
    "eliminate",
    "from_one_hot",
    "log_overlap",
    "marginalize",
    "mixture",
    "multiply",
    "power",
    "powered_circuit",
    "restrict",
]
