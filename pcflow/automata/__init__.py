"""Rules for sequences of categories: deterministic finite automata, and ways to make them."""

from pcflow.automata.automaton import Automaton

__all__ = ["Automaton"]
