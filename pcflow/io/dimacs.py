"""CNFs as files in the DIMACS format, which solvers and model counters share."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from io import TextIOWrapper
from itertools import chain
from pathlib import Path

from pcflow.checks import check_kind
from pcflow.errors import FileFormatError, StructureError
from pcflow.io.files import open_file, replace_file
from pcflow.logic import CNF

_INTEGER = re.compile(r"-?[0-9]{1,18}").fullmatch


def read_dimacs(path: str | os.PathLike[str]) -> CNF:
    r"""Read a CNF: a line `p cnf D C`, then C clauses of literals, each ended by 0.

    Clauses may run over lines. Lines that begin with `c` are comments, weights in them included;
    a line that begins with `%` ends the file, as in SATLIB.

    Args:
        path: the file.

    Returns:
        The formula.

    Raises:
        FileFormatError: if anything in it is malformed or missing; the message names the line.
        OSError: if it cannot be read.

    Examples:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile("w", suffix=".cnf") as file:
        ...     print("p cnf 3 2\n1 -2 0 2 3 0", file=file, flush=True)
        ...     read_dimacs(file.name).clauses
        ((1, -2), (2, 3))
    """
    lines = _Lines(Path(path))
    num_variables, num_clauses = lines.header()
    clauses: list[list[int]] = [[]]
    for literals in lines.literals(num_variables):
        for literal in literals:
            if literal:
                clauses[-1].append(literal)
            else:
                clauses.append([])
    if clauses.pop():
        raise lines.error("the last clause does not end with 0")
    if len(clauses) != num_clauses:
        raise lines.error(f"{num_clauses} clauses were announced, {len(clauses)} are there")
    try:
        return CNF(clauses, num_variables)
    except StructureError as error:
        raise lines.error(str(error)) from error


def write_dimacs(cnf: CNF, path: str | os.PathLike[str]) -> None:
    """Write a CNF such that `read_dimacs` gives back an equal one.

    Args:
        cnf: the formula.
        path: the file, usually named *.cnf; an old one is replaced only when done.

    Raises:
        OSError: if it cannot be written; an old file is left as it was.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_dimacs(CNF([(1, -2), (3,)]), f"{folder}/small.cnf")
        ...     read_dimacs(f"{folder}/small.cnf").clauses
        ((1, -2), (3,))
    """
    check_kind("cnf", cnf, CNF, "a CNF")
    header = f"p cnf {cnf.num_variables} {len(cnf.clauses)}\n".encode()
    lines = (f"{' '.join(map(str, (*clause, 0)))}\n".encode() for clause in cnf.clauses)
    replace_file(path, chain([header], lines))


class _Lines:
    """The lines of a file that are not comments, and where one is."""

    def __init__(self, path: Path) -> None:
        self.path, self.number = path, 0
        self.rest = self.read()

    def read(self) -> Iterator[list[str]]:
        """The words of every line; comments may be in any encoding."""
        with TextIOWrapper(open_file(self.path), encoding="ascii", errors="replace") as file:
            for self.number, line in enumerate(file, start=1):
                words = line.split()
                if words and words[0].startswith("%"):
                    return
                if words and not words[0].startswith("c"):
                    yield words

    def header(self) -> tuple[int, int]:
        match next(self.rest, None):
            case ["p", "cnf", variables, clauses]:
                sizes = self.integer(variables), self.integer(clauses)
                if min(sizes) >= 0:
                    return sizes
        raise self.error("needs a line `p cnf VARIABLES CLAUSES` before the clauses")

    def literals(self, num_variables: int) -> Iterator[list[int]]:
        """Line by line."""
        for words in self.rest:
            literals = list(map(self.integer, words))
            outside = [literal for literal in literals if abs(literal) > num_variables]
            if outside:
                raise self.error(f"literal {outside[0]}, but only {num_variables} variables")
            yield literals

    def integer(self, word: str) -> int:
        if not _INTEGER(word):
            raise self.error(f"{word[:40]!r} is not an integer")
        return int(word)

    def error(self, reason: str) -> FileFormatError:
        return FileFormatError(f"{self.path}, line {self.number}: {reason}")
