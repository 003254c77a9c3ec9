"""A picture for every term of the glossary, about 200 points wide.

python docs/glossary.py        # draws docs/images/glossary/*.svg anew

Circuits are drawn by `pf.plot`; what is about rows, tokens and numbers by the few shapes below.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pcflow as pf
from pcflow.plot import BOXES, GREY, INK, Diagram, Edge, Node

PICTURES = Path(__file__).parent / "images" / "glossary"
FONT = "Helvetica, Arial, DejaVu Sans, sans-serif"
TIMES, DOT = "\N{MULTIPLICATION SIGN}", ""
CELL = 26
SCALE = 1.3


@dataclass(frozen=True)
class Drawn:
    """A diagram that is made by hand."""

    nodes: Sequence[Node]
    edges: Iterable[tuple[int, int] | tuple[int, int, str]]
    directed: bool = False

    def diagram(self, names: object = None, most: int = 40) -> Diagram:
        edges = tuple(Edge(*edge) for edge in self.edges)
        return Diagram("", tuple(self.nodes), edges, self.directed)


def boxes(*nodes: tuple[str, int, str], edges: Iterable = (), directed: bool = False) -> str:
    """Nodes by kind, row and lines, and edges between their numbers."""
    made = [Node(kind, row, tuple(text.split("\n")) if text else ()) for kind, row, text in nodes]
    return pf.plot.svg(Drawn(made, edges, directed)).replace("<title></title>\n", "")


def shapes(width: float, height: float, *parts: str) -> str:
    """A picture of shapes."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
    look = f'viewBox="0 0 {width} {height}" font-family="{FONT}" font-size="9" fill="{INK}" '
    return "\n".join([f'{head}{look}text-anchor="middle">', *parts, "</svg>"])


def text(x: float, y: float, what: str, color: str = INK) -> str:
    return f'<text x="{x:g}" y="{y:g}" fill="{color}">{what}</text>'


def box(x: float, y: float, w: float, h: float, kind: str = "state", more: str = "") -> str:
    look = BOXES[kind]
    place = f'x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}"'
    return f'<rect {place} rx="3" fill="{look.fill}" stroke="{look.edge}" {more}/>'


def bar(x: float, base: float, high: float, kind: str = "sum", w: float = 7) -> str:
    edge = BOXES[kind].edge
    return f'<rect x="{x:g}" y="{base - high:g}" width="{w:g}" height="{high:g}" fill="{edge}"/>'


def line(*points: tuple[float, float], color: str = GREY, dashed: bool = False) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dash = ' stroke-dasharray="3 2"' if dashed else ""
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.4"{dash}/>'


def arrow(x: float, y: float, long: float = 18) -> str:
    tip = f"{x + long},{y} {x + long - 6},{y - 3} {x + long - 6},{y + 3}"
    return line((x, y), (x + long - 5, y)) + f'<polygon points="{tip}" fill="{GREY}"/>'


def row(x: float, y: float, cells: Iterable[str], width: float = CELL) -> str:
    """Cells side by side; what is empty or a question is not known."""
    found = []
    for number, cell in enumerate(cells):
        kind = "product" if cell in ("", "?") else "state"
        left = x + number * (width + 2)
        found += [box(left, y, width, 20, kind), text(left + width / 2, y + 13.5, cell)]
    return "".join(found)


def frame(x: float, y: float, w: float, h: float) -> str:
    look = f'fill="none" stroke="{BOXES["sum"].edge}" stroke-width="2"'
    return f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="5" {look}/>'


def circles(*fills: str) -> str:
    """Three units side by side."""
    return "".join(
        f'<circle cx="{45 + 35 * n}" cy="19" r="9" fill="{fill}" stroke="{GREY}"/>'
        for n, fill in enumerate(fills)
    )


def bell(x: float, y: float, w: float, h: float) -> str:
    steps = [n / 20 for n in range(21)]
    points = [(x + w * t, y - h * math.exp(-18 * (t - 0.5) ** 2)) for t in steps]
    return line(*points, color=BOXES["input"].edge)


PRODUCT_OF = [("product", 0, TIMES), ("input", 1, "a"), ("input", 1, "b, c")]

TERMS = {
    "block": shapes(
        226, 40, row(6, 10, ["the", "cat", "sat"]), frame(95, 4, 64, 32), row(100, 10, ["", ""]),
        row(166, 10, ["", ""]),
    ),
    "compatible": boxes(
        ("product", 0, f"p  {TIMES}"), ("product", 0, f"q  {TIMES}"),
        *[("input", 1, leaf) for leaf in ("a", "b, c", "a", "b, c")],
        edges=[(0, 2), (0, 3), (1, 4), (1, 5)],
    ),
    "compiled circuit": boxes(
        ("sum", 0, "circuit"), ("several", 1, "plan and parameters"), ("end", 2, "answers"),
        edges=[(0, 1, "compile"), (1, 2, "rows")], directed=True,
    ),
    "coupling": boxes(
        ("sum", 0, "marginals\nof the backbone"), ("product", 0, "joint\nof the circuit"),
        ("end", 1, "one distribution"), edges=[(0, 2), (1, 2)], directed=True,
    ),
    "CP": boxes(
        *[("product", 0, TIMES)] * 2, *[("input", 1, leaf) for leaf in ("a1", "b1", "a2", "b2")],
        edges=[(0, 2), (0, 3), (1, 4), (1, 5)],
    ),
    "decomposable": boxes(*PRODUCT_OF, edges=[(0, 1), (0, 2)]),
    "deterministic": boxes(
        ("sum", 0, "+"), ("input", 1, "a = 0"), ("input", 1, "a = 1"), edges=[(0, 1), (0, 2)]
    ),
    "evidence": shapes(
        176, 60, row(8, 8, ["3", "?", "", "1..2"], 38),
        *[bar(96 + 8 * n, 26, high) for n, high in enumerate([4, 14, 9])],
        *[text(27 + 40 * n, 44, word, GREY)
          for n, word in enumerate(["seen", "missing", "soft", "range"])],
    ),
    "flow": boxes(
        ("sum", 0, "+"), ("input", 1, "a"), ("input", 1, "a"),
        edges=[(0, 1, "90 %"), (0, 2, "10 %")],
    ),
    "fold": shapes(
        200, 58, *[box(8 + 26 * n, 18, 20, 24, "sum") for n in range(3)], arrow(92, 30),
        *[box(122 + 6 * n, 22 - 6 * n, 44, 24, "sum") for n in (2, 1, 0)],
        text(144, 37, "[F, B, K]"),
    ),
    "gap": shapes(
        200, 76, line((20, 8), (20, 62), (188, 62)),
        line((24, 52), (80, 44), (130, 34), (180, 18), color=BOXES["sum"].edge),
        line((24, 52), (80, 49), (130, 46), (180, 42), color=BOXES["input"].edge),
        line((180, 21), (180, 40), dashed=True), text(164, 33, "gap"),
        text(104, 73, "share that is masked", GREY), text(104, 18, "nats"),
    ),
    "input unit": shapes(
        120, 52, box(30, 4, 60, 30, "input"), bell(34, 30, 52, 22), text(60, 46, "a")
    ),
    "layer": shapes(
        160, 52, box(20, 4, 120, 30, "sum"),
        circles("white", "white", "white"), *[text(45 + 35 * n, 22, "+") for n in range(3)],
        text(80, 46, "over a, b, c"),
    ),
    "marginal MAP": shapes(
        150, 50, row(14, 6, ["?", "?", "1"], 38),
        *[text(33 + 40 * n, 42, w, GREY) for n, w in enumerate(["max", "sum", "seen"])],
    ),
    "mask": shapes(132, 36, row(10, 8, ["the", "", "sat", ""])),
    "MPE": shapes(
        212, 36, row(6, 8, ["1", "?", "?"]), arrow(92, 18, 24), row(122, 8, ["1", "0", "2"])
    ),
    "nat": shapes(
        190, 54, text(40, 21, "1 nat"), bar(66, 24, 9, "sum", 110), text(40, 41, "1 bit"),
        bar(66, 44, 9, "input", 110 * math.log(2)), text(166, 43, "0.69 nats", GREY),
    ),
    "partition": boxes(
        ("region", 0, "a, b, c"), ("partition", 1, DOT), ("region", 2, "a"), ("region", 2, "b, c"),
        edges=[(0, 1), (1, 2), (1, 3)],
    ),
    "region": shapes(170, 40, row(10, 10, list("abcde")), frame(36, 4, 86, 32)),
    "region graph": pf.plot.svg(pf.structure.chain(3), names="abc"),
    "remasking": shapes(
        212, 36, row(6, 8, ["the", "mat", "sat"]), arrow(92, 18, 24),
        row(122, 8, ["the", "", "sat"]),
    ),
    "scope": boxes(
        ("product", 0, f"{TIMES}\na, b, c"), ("input", 1, "+\na"), ("input", 1, "+\nb, c"),
        edges=[(0, 1), (0, 2)],
    ),
    "semiring": shapes(
        190, 52, text(95, 20, f"0.3 {TIMES} 0.5  +  0.7 {TIMES} 0.2  =  0.29"),
        text(95, 40, f"max(0.3 {TIMES} 0.5,  0.7 {TIMES} 0.2)  =  0.15"),
    ),
    "smooth": boxes(
        ("sum", 0, "+"), ("product", 1, f"{TIMES}\na, b"), ("product", 1, f"{TIMES}\na, b"),
        edges=[(0, 1), (0, 2)],
    ),
    "soft evidence": shapes(
        150, 60, line((20, 46), (130, 46)),
        *[bar(32 + 24 * n, 45, high, "sum", 14) for n, high in enumerate([6, 34, 20, 2])],
        *[text(39 + 24 * n, 57, str(n)) for n in range(4)],
    ),
    "structured decomposable": boxes(
        ("sum", 0, "+"), ("product", 1, TIMES), ("product", 1, TIMES),
        *[("input", 2, leaf) for leaf in ("a", "b, c", "a", "b, c")],
        edges=[(0, 1), (0, 2), (1, 3), (1, 4), (2, 5), (2, 6)],
    ),
    "sum unit": boxes(
        ("sum", 0, "+"), ("input", 1, "a"), ("input", 1, "a"), edges=[(0, 1, "0.7"), (0, 2, "0.3")]
    ),
    "Tucker": boxes(
        *[("product", 0, TIMES)] * 4, *[("input", 1, leaf) for leaf in ("a1", "a2", "b1", "b2")],
        edges=[(2 * i + j, below) for i in range(2) for j in range(2) for below in (4 + i, 6 + j)],
    ),
    "unit": shapes(
        160, 52, box(20, 4, 120, 30, "several"),
        circles("white", BOXES["sum"].fill, "white"),
        text(80, 22, "k"), text(80, 46, "one of K"),
    ),
    "vtree": boxes(
        ("partition", 0, DOT), ("partition", 1, DOT), ("partition", 1, DOT),
        *[("region", 2, leaf) for leaf in "abcd"],
        edges=[(0, 1), (0, 2), (1, 3), (1, 4), (2, 5), (2, 6)],
    ),
}  # fmt: skip


def enlarged(picture: str) -> str:
    """As large as text of a page is."""
    sizes = re.compile(r' (width|height)="([\d.]+)"')
    head, rest = picture.split(">", 1)
    return sizes.sub(lambda size: f' {size[1]}="{SCALE * float(size[2]):.0f}"', head) + ">" + rest


def name_of(term: str) -> str:
    """The file of a term."""
    return f"{term.lower().replace(' ', '_')}.svg"


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    for term, picture in TERMS.items():
        (PICTURES / name_of(term)).write_text(f"{enlarged(picture)}\n", encoding="utf-8")
    print(f"{len(TERMS)} pictures in {PICTURES}")
