"""What a value passes on its way: `x` to a log-probability, logits to tokens, data, a PSDD.

    python benchmarks/walks.py

Each is one call of a public function, watched: its files in the order in which one of their
functions is entered first, how many functions these are, and which of them only rename: they hand
all that they are given to one other, and do nothing else. What runs when a module is imported does
not count.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import CodeType, FrameType
from typing import Any

import torch
from toy import arguments

import pcflow as pf
import pcflow_diffusion as pd

ROOTS = {Path(package.__file__ or "").parent for package in (pf, pd)}


def entered(call: Callable[[], object]) -> dict[CodeType, str]:
    """The functions that a call enters, in the order of the first entry, and their files."""
    found: dict[CodeType, str] = {}

    def look(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        path = Path(code.co_filename)
        inside = next((root for root in ROOTS if root in path.parents), None)
        if event == "call" and inside is not None and not code.co_name.startswith("<"):
            found[code] = path.relative_to(inside.parent).with_suffix("").as_posix()

    sys.setprofile(look)
    try:
        call()
    finally:
        sys.setprofile(None)
    return found


def renames(code: CodeType) -> bool:
    """Whether a function hands all that it is given to one other, and does nothing else."""
    for node in ast.walk(ast.parse(Path(code.co_filename).read_text())):
        if isinstance(node, ast.FunctionDef) and code.co_firstlineno in lines(node):
            said = ast.get_docstring(node) is not None
            match node.body[said:]:
                case [ast.Return(value=ast.Call() as call) | ast.Expr(value=ast.Call() as call)]:
                    handed = [*call.args, *(keyword.value for keyword in call.keywords)]
                    names = {ast.unparse(one) for one in handed}
                    given = {one.arg for one in [*node.args.args, *node.args.kwonlyargs]}
                    named = ast.unparse(call.func).replace(".", "").isidentifier()
                    return named and bool(names) and names == given - {"self", "cls"}
    return False


def lines(node: ast.FunctionDef) -> set[int]:
    """Where a function may be said to begin: at its `def`, or above, at a decorator."""
    return {node.lineno, *(one.lineno for one in node.decorator_list)}


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
    print("| walk | files | functions | that only rename | which files |\n|---|---|---|---|---|")
    with TemporaryDirectory() as folder:
        for name, call in walks(Path(folder)).items():
            call()
            found = entered(call)
            files = list(dict.fromkeys(found.values()))
            same = [code.co_qualname for code in found if renames(code)] or ["none"]
            columns = [name, len(files), len(found), ", ".join(same), ", ".join(files)]
            print("|", " | ".join(map(str, columns)), "|")


if __name__ == "__main__":
    main()
