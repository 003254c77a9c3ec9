"""Every block of the page on pictures runs, and every picture that it shows is of such a block.

python tests/test_pictures_page.py        # draws docs/images/plot_*.png anew
python docs/glossary.py                   # and those of the glossary
"""

import io
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes

import pcflow as pf

DOCS = Path(__file__).parent.parent / "docs"
PIECES = re.compile(r"```python\n(?P<code>.*?)```|!\[[^\]]*\]\((?P<picture>[^)]*)\)", re.DOTALL)


def pictures() -> Iterator[tuple[Path, Axes]]:
    """Run the blocks in their order; a picture is what the block above it called `axes`."""
    known: dict[str, Any] = {}
    for piece in PIECES.finditer((DOCS / "pictures.md").read_text(encoding="utf-8")):
        if piece["code"]:
            exec(piece["code"], known)
        else:
            yield DOCS / piece["picture"], known["axes"]


def test_every_block_runs_and_every_picture_is_there() -> None:
    shown = dict(pictures())
    assert len(shown) == len({id(axes) for axes in shown.values()}) == 8
    assert {path.name for path in shown} == {p.name for p in DOCS.glob("images/plot_*")}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in shown)
    assert sum(path.stat().st_size for path in shown) < 150_000


def test_every_term_has_a_picture_as_it_would_be_drawn_now() -> None:
    drawn = runpy.run_path(str(DOCS / "glossary.py"))
    page = (DOCS / "glossary.md").read_text(encoding="utf-8")
    terms = re.findall(r"^## (.+)\n\n!\[\1\]\(images/glossary/(.+)\)\n\n.+", page, re.MULTILINE)
    assert terms == [(term, drawn["name_of"](term)) for term in drawn["TERMS"]]
    assert len(terms) == 30 and [t for t, _ in terms] == sorted(
        (t for t, _ in terms), key=str.lower
    )
    files = {path.name: path.read_text(encoding="utf-8") for path in drawn["PICTURES"].iterdir()}
    assert files == {
        drawn["name_of"](t): f"{drawn['enlarged'](p)}\n" for t, p in drawn["TERMS"].items()
    }


def write(path: Path, axes: Axes) -> None:
    """A PNG of few colours: lines, boxes and one scale have no more."""
    from PIL import Image

    image, small = io.BytesIO(), io.BytesIO()
    axes.figure.savefig(image, format="png", dpi=110)
    Image.open(image).convert("RGB").quantize(48).save(small, format="png", optimize=True)
    pf.replace_file(path, [small.getvalue()])
    print(f"{path.name}: {len(small.getvalue()):,} bytes")


if __name__ == "__main__":
    mpl.use("Agg")
    for found in pictures():
        write(*found)
