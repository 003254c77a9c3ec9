"""Which files a value passes on its way: `x` to a log-probability, logits to tokens, data, a PSDD.

    python benchmarks/walks.py

Each is one call of a public function, watched: a file is listed where one of its functions is
entered first. The classes of errors do not count, nor does what runs when a module is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import torch
from toy import arguments

import pcflow as pf
import pcflow_diffusion as pd

ROOTS = {Path(package.__file__ or "").parent for package in (pf, pd)}


def files_of(call: Callable[[], object]) -> list[str]:
    """The files whose functions a call enters, in the order of the first entry."""
    found: dict[str, None] = {}

    def look(frame: FrameType, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        inside = next((root for root in ROOTS if root in path.parents), None)
        if event == "call" and inside is not None and frame.f_code.co_name != "<module>":
            found[path.relative_to(inside.parent).with_suffix("").as_posix()] = None

    sys.setprofile(look)
    try:
        call()
    finally:
        sys.setprofile(None)
    return list(found)


def walks(folder: Path) -> dict[str, Callable[[], object]]:
    """What is watched, by name: once before, because what is kept is not made again."""
    model = pf.compile(pf.hmm(4, states=3, inputs=pf.Categorical(5)))
    model.requires_grad_(False)
    x, mask = torch.randint(5, (8, 4)), torch.full((8, 4), 5)
    head, logits = pd.CircuitHead(model, 5, "projection"), torch.randn(8, 4, 5)
    pf.write_psdd(pf.chow_liu(torch.randint(2, (50, 3))), folder / "tree.psdd")
    learning = pf.compile(pf.hmm(4, states=3, inputs=pf.Categorical(5)))
    return {
        "`x`: `model.log_prob(x)`": lambda: model.log_prob(x),
        "`logits`: `head.sample(logits, x)`": lambda: head.sample(logits, mask),
        "`data`: `pf.fit(model, data)`": lambda: pf.fit(learning, x, epochs=1, progress=False),
        "a file: `pf.read_psdd(path)`": lambda: pf.read_psdd(folder / "tree.psdd"),
    }


def main() -> None:
    """A table."""
    arguments(__doc__).parse_args()
    print("| walk | files | which |\n|---|---|---|")
    with TemporaryDirectory() as folder:
        for name, call in walks(Path(folder)).items():
            call()
            passed = files_of(call)
            print(f"| {name} | {len(passed)} | {', '.join(passed)} |")


if __name__ == "__main__":
    main()
