"""Everything public is on a page of the reference, and says what it takes, returns and refuses."""

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

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


# Functions without an example: most want another library, a file or minutes. Only to shrink.
NO_EXAMPLE = {
    "pcflow.structure.dependence_tree",
    "pcflow_diffusion.circuit_algorithm",
    "pcflow_diffusion.circuit_decoder",
    "pcflow_diffusion.circuit_policy",
    "pcflow_diffusion.circuit_processor",
    "pcflow_diffusion.circuit_remask",
    "pcflow_diffusion.circuit_scheduler",
    "pcflow_diffusion.circuit_transfer_index",
    "pcflow_diffusion.load_denoiser",
    "pcflow_diffusion.decode.constraint_of",
    "pcflow_diffusion.decode.turns",
    "pcflow_diffusion.evaluate.gap_table",
    "pcflow_diffusion.evaluate.make_examples",
    "pcflow_diffusion.evaluate.measure_any_order",
    "pcflow_diffusion.evaluate.measure_head",
    "pcflow_diffusion.evaluate.sequential_nats",
    "pcflow_diffusion.models.load_judge",
    "pcflow_diffusion.models.load_pretrained",
}
# How many of about 400 public methods lack a section; many say all in a line. Only to shrink.
METHODS_WITHOUT = {"Args:": 285, ">>>": 326}


def functions() -> dict[str, Any]:
    """Each once, by the first package that exports it."""
    written = {
        path: value
        for path, value in PUBLIC.items()
        if inspect.isfunction(value) and value.__code__.co_filename.endswith(".py")  # no NewType
    }
    return {path: value for value, path in {v: p for p, v in reversed(written.items())}.items()}


def takes(function: Any) -> bool:
    return bool(inspect.signature(function).parameters.keys() - {"self", "cls"})


@pytest.mark.parametrize("path", functions())
def test_a_function_says_what_it_takes_returns_and_refuses(path: str) -> None:
    function = PUBLIC[path]
    told = inspect.getdoc(function) or ""
    returns = inspect.signature(function).return_annotation not in (None, "None")
    assert not takes(function) or "\nArgs:\n" in told
    assert not returns or re.search(r"\n(Returns|Yields):\n", told)
    assert "    raise " not in inspect.getsource(function) or "\nRaises:\n" in told
    assert (">>> " in told) != (path in NO_EXAMPLE)


def methods() -> Iterator[Any]:
    for value in {id(v): v for v in PUBLIC.values() if inspect.isclass(v)}.values():
        for name, member in vars(value).items():
            function = getattr(member, "__func__", member)
            if inspect.isfunction(function) and not name.startswith("_"):
                yield function


def test_methods_say_more_than_they_did() -> None:
    lost = {section: 0 for section in METHODS_WITHOUT}
    for method in methods():
        told = inspect.getdoc(method) or ""
        assert told, method.__qualname__
        lost["Args:"] += takes(method) and "\nArgs:\n" not in told
        lost[">>>"] += ">>>" not in told
    assert all(lost[section] <= most for section, most in METHODS_WITHOUT.items()), lost
