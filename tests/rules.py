"""Generated automata, for the tests of rules."""

import hypothesis.strategies as st

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
    """Those that accept something: if no state that can be reached does, all do."""
    classes, after, start, accept = draw(tables(categories))
    try:
        return pf.Automaton(classes, after, start, accept)
    except pf.EmptyLanguage:
        return pf.Automaton(classes, after, start, [True] * len(accept))
