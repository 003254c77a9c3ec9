"""Generated automata, for the tests of rules."""

import hypothesis.strategies as st
from hypothesis import assume

import pcflow as pf

FEW = st.integers(1, 3)


@st.composite
def tables(draw, categories=FEW):
    """What `Automaton` takes."""
    V, S = draw(categories), draw(st.integers(1, 4))
    C = draw(st.integers(1, 3))
    classes = draw(st.lists(st.integers(0, C - 1), min_size=V, max_size=V))
    row = st.lists(st.integers(-1, S - 1), min_size=C, max_size=C)
    after = draw(st.lists(row, min_size=S, max_size=S))
    accept = draw(st.lists(st.booleans(), min_size=S, max_size=S))
    return classes, after, draw(st.integers(0, S - 1)), accept


@st.composite
def automata(draw, categories=FEW):
    """Those that accept something."""
    try:
        return pf.Automaton(*draw(tables(categories)))
    except pf.EmptyLanguage:
        assume(False)
