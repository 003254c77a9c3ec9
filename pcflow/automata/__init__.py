"""Rules for sequences of categories: deterministic finite automata, and ways to make them."""

from pcflow.automata.automaton import Automaton
from pcflow.automata.product import times

__all__ = ["Automaton", "times"]
