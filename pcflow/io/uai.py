"""Networks of tables as files of text, in the format of the UAI inference competitions.

    MARKOV                      (or BAYES)
    variables
    values of every variable
    tables
    variables of every table    (how many, and which, counted from 0)
    values of every table       (how many, and which; the last variable runs fastest)

Line breaks mean nothing but that the last number is whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from math import inf, prod
from typing import NamedTuple

import torch
from torch import Tensor

from pcflow.algebra import eliminate
from pcflow.circuit import Circuit
from pcflow.errors import FileFormatError, NoMassError
from pcflow.io.files import read_bytes, real


class Network(NamedTuple):
    """A distribution over the variables of a network of tables.

    Attributes:
        circuit: the product of the tables, normalised.
        log_partition: logarithm (nats) of what it was divided by; zero for a Bayesian network.

    Examples:
        >>> import pcflow as pf
        >>> circuit, log_partition = Network(pf.hmm(2, states=2, inputs=pf.Bernoulli()), 0.0)
        >>> circuit.num_variables
        2
    """

    circuit: Circuit
    log_partition: float


def read_uai(path: str | os.PathLike[str]) -> Network:
    r"""Read a Markov or Bayesian network of tables, and compile it by variable elimination.

    The circuit is exact and as large as the network is wide: it has at most 2^24 weights, or the
    file is refused before it is made.

    Args:
        path: the .uai file.

    Returns:
        The circuit, normalised, and the logarithm (nats) of what the network's tables sum to.

    Raises:
        FileFormatError: if it is truncated or of another format, no state has a weight above zero,
            or the circuit would be too large.
        OSError: if it cannot be read.

    Examples:
        >>> import tempfile, pcflow as pf
        >>> with tempfile.NamedTemporaryFile("w", suffix=".uai") as file:
        ...     print("MARKOV\n2\n2 2\n1\n2 0 1\n4 3 1 1 3", file=file, flush=True)
        ...     circuit, log_partition = pf.read_uai(file.name)
        >>> round(pf.compile(circuit).log_prob(torch.tensor([[1, 1]])).exp().item(), 6)
        0.375
        >>> round(log_partition, 6)  # log 8
        2.079442
    """
    try:
        text = read_bytes(path).decode("ascii")
        words = _Words(text)
        sizes, tables = words.network()
        return Network(*eliminate(tables, sizes))
    except NoMassError as error:
        raise FileFormatError(f"{path}: no state has a weight above zero") from error
    except (UnicodeDecodeError, ValueError) as error:
        raise FileFormatError(f"{path}: {error}") from error


class _Words:
    """The words of a file, one after another."""

    def __init__(self, text: str) -> None:
        if not text[-1:].isspace():
            raise ValueError("no line break is behind the last number: is it truncated?")
        self.words = text.split()
        self.place = 0

    def next(self) -> str:
        if self.place == len(self.words):
            raise ValueError("is truncated")
        self.place += 1
        return self.words[self.place - 1]

    def whole(self, what: str, least: int) -> int:
        word = self.next()[:40]
        if not (word.isascii() and word.isdigit() and len(word) < 10) or int(word) < least:
            raise ValueError(f"word {self.place}: {what} must be at least {least}, is {word!r}")
        return int(word)

    def several(self, count: int) -> Iterator[int]:
        """Numbers 0, ..., count - 1."""
        left = len(self.words) - self.place
        if count > left:
            raise ValueError(f"is truncated: {count} more were announced, {left} are there")
        return iter(range(count))

    def network(self) -> tuple[list[int], list[tuple[tuple[int, ...], Tensor]]]:
        """Sizes of variables, and tables of logarithms."""
        kind = self.next()
        if kind not in ("MARKOV", "BAYES"):
            raise ValueError(f"is not a MARKOV or BAYES network: {kind[:40]!r}")
        variables = self.several(self.whole("the number of variables", 1))
        sizes = [self.whole("a number of values", 1) for _ in variables]
        count = self.several(self.whole("the number of tables", 0))
        scopes = [self.scope(len(sizes)) for _ in count]
        tables = [(scope, self.table(prod(sizes[v] for v in scope))) for scope in scopes]
        if self.place < len(self.words):
            raise ValueError(f"has {len(self.words) - self.place} words too many")
        return sizes, tables

    def scope(self, variables: int) -> tuple[int, ...]:
        count = self.several(self.whole("the number of variables of a table", 0))
        scope = tuple(self.whole("a variable", 0) for _ in count)
        if len(set(scope)) < len(scope) or max(scope, default=0) >= variables:
            raise ValueError(f"a table is about variables {scope}, of 0..{variables - 1}")
        return scope

    def table(self, wanted: int) -> Tensor:
        size = self.whole("the size of a table", 1)
        if size != wanted:
            raise ValueError(f"a table has {size} values, but its variables {wanted}")
        values = [self.number() for _ in self.several(size)]
        return torch.tensor(values, dtype=torch.float64).log()

    def number(self) -> float:
        word = self.next()
        try:
            value = real(word)
        except ValueError as error:
            raise ValueError(f"word {self.place}: {word[:40]!r} is not a number") from error
        if not 0 <= value < inf:
            raise ValueError(f"word {self.place}: values of tables must be at least 0, not {value}")
        return value
