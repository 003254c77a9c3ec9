"""What docstrings say to readers of the code, and the site says otherwise.

Methods that stand for another one say what they do differently. Whatever an override takes,
returns and refuses is told where it was declared first, so its sections of arguments, answers and
errors are shown below its own words.

A constructor says how it goes about it; on the site the class speaks for it, and only its sections
are shown. A package says what it is; the site does so on its front page, not above every group of
names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import griffe

SECTIONS = re.compile(r"\n(?:Args|Returns|Raises):\n(?:    .*\n|\n)*")


class Overrides(griffe.Extension):
    """Adds to docstrings of overrides what those above them say."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Go over all methods, once all bases are known."""
        pkg.docstring = None
        for owner in list(_classes(pkg)):
            _silence(owner.functions.get("__init__"))
            for name, method in owner.functions.items():
                told = method.docstring
                if told and "\nArgs:\n" not in told.value:
                    rest = "".join(s for s in _above(owner, name) if _title(s) not in told.value)
                    told.value = f"{told.value.rstrip()}\n{rest}"


def _silence(constructor: griffe.Function | None) -> None:
    """Leave the sections of a constructor alone."""
    if constructor and constructor.docstring:
        told = "".join(SECTIONS.findall(f"{constructor.docstring.value}\n")).lstrip()
        constructor.docstring = griffe.Docstring(told, parent=constructor) if told else None


def _classes(module: griffe.Module | griffe.Class) -> Iterator[griffe.Class]:
    for member in module.members.values():
        if not member.is_alias and (member.is_module or member.is_class):
            if member.is_class:
                yield member
            yield from _classes(member)


def _title(section: str) -> str:
    return section.split(":", 1)[0] + ":\n"


def _above(owner: griffe.Class, name: str) -> list[str]:
    """Sections of the nearest base that tells arguments."""
    for base in owner.mro():
        method = base.members.get(name)
        told = f"{method.docstring.value}\n" if method and method.docstring else ""
        if "\nArgs:\n" in told:
            return list(SECTIONS.findall(told))
    return []
