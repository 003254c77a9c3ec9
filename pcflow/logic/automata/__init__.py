"""Rules for sequences of categories: deterministic finite automata, and ways to make them."""

from pcflow.logic.automata.automaton import Automaton
from pcflow.logic.automata.product import times

__all__ = ["Automaton", "times"]
