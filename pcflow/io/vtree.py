"""Vtrees, and the lines of the text files that hold them and PSDDs.

A vtree is a binary tree whose leaves are variables. Files count variables from 1, we from 0.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from pcflow.errors import FileFormatError
from pcflow.io.files import read_bytes, whole

Vtree = dict[int, int | tuple[int, int]]
"""For every node its variable if it is a leaf, else its two children."""

# what reading a line that is not one can end in: wrong numbers, wrong counts, unknown ids
MALFORMED = (ValueError, LookupError)


Line = tuple[int, list[str]]
"""The number of a line, and its words."""


class Text(NamedTuple):
    """How many nodes a file says it has, its lines but for comments, and its last character."""

    announced: int
    lines: Iterator[Line]
    end: str


def read_lines(path: str | os.PathLike[str], kind: str) -> Text:
    """What a file of nodes holds, which begins with a line of a word and their number.

    Raises:
        FileFormatError: if it does not begin with `kind` and a number, or is not text.
        OSError: if it cannot be read.
    """
    try:
        text = read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{path}: not text ({error})") from error
    split = ((number, line.split()) for number, line in enumerate(text.split("\n"), start=1))
    lines = ((number, words) for number, words in split if words and words[0] != "c")
    number, header = next(lines, (1, []))
    count = header[1] if len(header) == 2 and header[0] == kind else ""
    if not (count.isascii() and count.isdigit() and len(count) < 20):
        raise FileFormatError(f"{path}: line {number} is not '{kind}' and a number of nodes")
    return Text(int(count), lines, text[-1:])


def read_vtree(path: str | os.PathLike[str]) -> Vtree:
    """The vtree of a file.

    Raises:
        FileFormatError: if the file does not hold a binary tree of variables.
        OSError: if it cannot be read.
    """
    vtree: Vtree = {}
    count, lines, _ = read_lines(path, "vtree")
    for number, words in lines:
        try:
            node, entry = _entry(words)
            if node in vtree:
                raise ValueError(f"vtree node {node} is there already")
            vtree[node] = entry
        except MALFORMED as error:
            raise FileFormatError(f"{path}: line {number}: {_reason(error)}") from error
    if len(vtree) != count:
        raise FileFormatError(f"{path}: has {len(vtree)} nodes, not {count}: is it truncated?")
    try:
        root_of(vtree)
    except MALFORMED as error:
        raise FileFormatError(f"{path}: {_reason(error)}") from error
    return vtree


def root_of(vtree: Vtree) -> int:
    """The root of what is meant to be a tree.

    Raises:
        ValueError: if it is not one: a node has two parents, or a variable two leaves.
        LookupError: if a child is missing.
    """
    children = [child for entry in vtree.values() if isinstance(entry, tuple) for child in entry]
    variables = [entry for entry in vtree.values() if isinstance(entry, int)]
    unknown = next((child for child in children if child not in vtree), None)
    if unknown is not None:
        raise LookupError(f"vtree node {unknown} is nowhere")
    if len(set(children)) < len(children) or len(set(variables)) < len(variables):
        raise ValueError("not a vtree: some node has two parents, or some variable two leaves")
    roots = vtree.keys() - set(children)
    if len(roots) != 1:
        raise ValueError(f"not a vtree: it has {len(roots)} roots")
    (root,) = roots
    if len(list(in_order(vtree, root))) < len(vtree):
        raise ValueError("not a vtree: some nodes are not below its root")
    return root


def in_order(vtree: Vtree, root: int) -> Iterator[int]:
    """Nodes from left to right, an inner node between its children."""
    stack: list[int] = []
    node: int | None = root
    while stack or node is not None:
        while node is not None:
            stack.append(node)
            entry = vtree[node]
            node = entry[0] if isinstance(entry, tuple) else None
        here = stack.pop()
        yield here
        entry = vtree[here]
        node = entry[1] if isinstance(entry, tuple) else None


def vtree_lines(vtree: Vtree) -> Iterator[str]:
    """The lines of a file; children come before their parents."""
    yield f"vtree {len(vtree)}"
    order, stack = [], [root_of(vtree)]
    while stack:
        node = stack.pop()
        order.append(node)
        entry = vtree[node]
        stack += entry if isinstance(entry, tuple) else ()
    for node in reversed(order):
        entry = vtree[node]
        yield (
            f"I {node} {entry[0]} {entry[1]}"
            if isinstance(entry, tuple)
            else f"L {node} {entry + 1}"
        )


def _entry(words: list[str]) -> tuple[int, int | tuple[int, int]]:
    kind, *rest = words
    node, *numbers = map(whole, rest)
    if node < 0 or (kind, len(numbers)) not in (("L", 1), ("I", 2)):
        raise ValueError("expected 'L id variable' or 'I id left right'")
    if kind == "I":
        return node, (numbers[0], numbers[1])
    return node, variable_of(numbers[0])


def variable_of(number: int) -> int:
    """Our number of a variable that files count from 1.

    Raises:
        ValueError: if it is not positive.
    """
    if number < 1:
        raise ValueError(f"variables are counted from 1, found {number}")
    return number - 1


def _reason(error: Exception) -> str:
    return str(error.args[0]) if error.args else type(error).__name__
