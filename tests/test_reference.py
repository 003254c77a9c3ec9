"""Everything public is on a page of the reference, and says what it takes, returns and refuses."""

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

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


# How many of about 400 public methods lack an example; classes have one, families by their suite.
# Only to shrink.
METHODS_WITHOUT_EXAMPLE = 302
ARGUMENTS = re.compile(r"^Args:\n((?:    .*\n|\n)*)", re.MULTILINE)


def functions() -> dict[str, Any]:
    """Each once, by the first package that exports it."""
    written = {
        path: value
        for path, value in PUBLIC.items()
        if inspect.isfunction(value) and value.__code__.co_filename.endswith(".py")  # no NewType
    }
    return {path: value for value, path in {v: p for p, v in reversed(written.items())}.items()}


def classes() -> list[type]:
    return list({id(v): v for v in PUBLIC.values() if inspect.isclass(v)}.values())


def methods() -> Iterator[tuple[Any, list[str]]]:
    """Each, and what is told of it: by itself, and by the methods that it stands for."""
    for owner in classes():
        for name, member in vars(owner).items():
            if inspect.isfunction(function := unbound(member)) and name[0] != "_":
                above = [unbound(vars(base)[name]) for base in owner.__mro__ if name in vars(base)]
                yield function, [inspect.getdoc(one) or "" for one in above]


def unbound(member: Any) -> Any:
    return getattr(member, "__func__", member)


def takes(function: Any) -> set[str]:
    return inspect.signature(function).parameters.keys() - {"self", "cls"}


def told_arguments(text: str) -> set[str]:
    lines = re.findall(r"^    ([\w*, ]+):", "".join(ARGUMENTS.findall(f"{text}\n")), re.MULTILINE)
    return {name.strip(" *") for line in lines for name in line.split(",") if line[0] != " "}


def returns_tensor(function: Any) -> bool:
    return inspect.signature(function).return_annotation in ("Tensor", Tensor)


def tells_shape(text: str) -> bool:
    """Whether it says of what shape the answer is, rather than what is taken."""
    return "[" in ARGUMENTS.sub("", text.partition("\nExamples:\n")[0])


def raises(function: Any) -> bool:
    return re.search(r"^ +raise ", inspect.getsource(function), re.MULTILINE) is not None


@pytest.mark.parametrize("path", functions())
def test_a_function_says_what_it_takes_returns_and_refuses(path: str) -> None:
    function = PUBLIC[path]
    told = inspect.getdoc(function) or ""
    returns = inspect.signature(function).return_annotation not in (None, "None")
    assert told_arguments(told) == takes(function)
    assert not returns or re.search(r"\n(Returns|Yields):\n", told)
    assert not returns_tensor(function) or "[" in told.partition("\nReturns:\n")[2]
    assert not raises(function) or "\nRaises:\n" in told
    assert ">>> " in told


def test_a_method_says_what_it_takes_returns_and_refuses() -> None:
    lost = {
        (method.__qualname__, what)
        for method, told in methods()
        for what, fine in {
            "anything": bool(told[0]),
            "arguments": any(told_arguments(text) == takes(method) for text in told),
            "shape": not returns_tensor(method) or any(map(tells_shape, told)),
            "errors": not raises(method) or any("\nRaises:\n" in text for text in told),
        }.items()
        if not fine
    }
    assert not lost
    assert sum(">>>" not in told[0] for _, told in methods()) <= METHODS_WITHOUT_EXAMPLE


def test_a_class_shows_an_example() -> None:
    """But for errors, and what others are to write."""
    lost = [
        one
        for one in classes()
        if not issubclass(one, Exception) and not inspect.isabstract(one)
        if not getattr(one, "_is_protocol", False) and ">>> " not in (inspect.getdoc(one) or "")
    ]
    assert not lost
