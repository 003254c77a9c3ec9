"""Pictures of circuits and of what they answer, by matplotlib, which is imported when one is drawn.

What is drawn is a value that the caller has: a circuit, marginals, draws, a result of `fit`. No
picture asks a model anything. Each takes `axes` to draw on, or makes a figure of its own, and
returns the axes; no setting of matplotlib is read for meaning or changed.
"""

from pcflow.plot.diagram import (
    MOST_ROWS,
    Diagram,
    Edge,
    Node,
    by_depth,
    counted,
    scope_text,
    span,
)
from pcflow.plot.graph import graph, svg
from pcflow.plot.images import images
from pcflow.plot.lines import gap, training
from pcflow.plot.numbers import dependence, marginals
from pcflow.plot.steps import plan
from pcflow.plot.style import BOXES, GREY, INK, axes_of, names_of, titled

__all__ = [
    "BOXES",
    "GREY",
    "INK",
    "MOST_ROWS",
    "Diagram",
    "Edge",
    "Node",
    "axes_of",
    "by_depth",
    "counted",
    "dependence",
    "gap",
    "graph",
    "images",
    "marginals",
    "names_of",
    "plan",
    "scope_text",
    "span",
    "svg",
    "titled",
    "training",
]
