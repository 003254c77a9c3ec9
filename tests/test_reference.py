"""Everything public is on a page of the reference, and says what it takes, returns and refuses."""

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"
PACKAGES = [
    "pcflow",
    "pcflow.data.datasets",
    "pcflow.structure",
    "pcflow.testing",
    "pcflow_diffusion",
    "pcflow_diffusion.decode",
    "pcflow_diffusion.evaluate",
    "pcflow_diffusion.head",
    "pcflow_diffusion.models",
    "pcflow_diffusion.multi_token",
    "pcflow_diffusion.plugs",
    "pcflow_diffusion.train",
]
ENTRY = re.compile(
    r"^::: ([\w.]+)\n    options:\n      heading_level: \d\n(?:      members: \[([^\]]*)\])?",
    re.MULTILINE,
)


def entries() -> Iterator[tuple[str, Any]]:
    """Names on the pages, and what they are."""
    for page in REFERENCE.glob("*.md"):
        for path, members in ENTRY.findall(page.read_text(encoding="utf-8")):
            module, names = (path, members) if members else path.rsplit(".", 1)
            for name in names.replace(",", " ").split():
                yield name, getattr(importlib.import_module(module), name)


def public() -> dict[str, Any]:
    """What the packages export; of datasets, what is written there."""
    found = {}
    for path in PACKAGES:
        package = importlib.import_module(path)
        own = [n for n, v in vars(package).items() if getattr(v, "__module__", "") == path]
        names = getattr(package, "__all__", None) or [n for n in own if n[0] != "_"]
        found |= {f"{path}.{name}": getattr(package, name) for name in names}
    return {name: value for name, value in found.items() if not inspect.ismodule(value)}


PUBLIC = public()


def test_nothing_public_is_missing() -> None:
    told: dict[str, list[Any]] = {}
    for name, value in entries():
        told.setdefault(name, []).append(value)
    lost = [
        path
        for path, value in PUBLIC.items()
        if not any(value is one for one in told.get(path.rsplit(".", 1)[1], []))
    ]
    assert not lost


def test_nothing_is_told_twice() -> None:
    told = [(name, id(value)) for name, value in entries()]
    assert len(told) == len(set(told))
