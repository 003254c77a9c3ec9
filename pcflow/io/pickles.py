"""Pickles as data: what one would build is told, and nothing of it is ever built.

A pickle is a program for a machine with a stack. Ours knows numbers, texts, bytes, lists, tuples
and dictionaries; of everything else it notes the name and what the call would be given. Nothing is
imported and nothing is called, whatever the file says. Bytes stay in the file until somebody
reads them.

Source: the operations as the module `pickletools` of Python's library describes them.
"""

from __future__ import annotations

import pickletools
from collections.abc import Collection
from dataclasses import dataclass
from io import SEEK_END, BufferedReader, BytesIO
from typing import Any, NamedTuple

SPARE = 16
"""How often the bytes of a file may be read, at most: objects that share them make them many."""


class Name(NamedTuple):
    """Something that a pickle would import."""

    module: str
    name: str


@dataclass(eq=False)
class Made:
    """A call that a pickle would make, and the state that it would give to what comes of it."""

    what: Name
    arguments: tuple[Any, ...]
    state: Any = None


@dataclass(frozen=True, eq=False)
class Piece:
    """Bytes of a pickle, which are where they are while its file is open."""

    file: _Bounded
    start: int
    count: int

    def read(self) -> bytearray:
        """The bytes, in memory of their own.

        Raises:
            ValueError: if they are gone by now, or bytes of the file are read over and over.
        """
        return self.file.copy(self.start, self.count)


def read_pickle(file: BufferedReader | BytesIO, names: Collection[Name] | None = None) -> Any:
    """What a pickle would build: a `Made` in place of every object, a `Piece` of all bytes.

    Args:
        file: open.
        names: which may occur; any by default.

    Raises:
        ValueError: if it is truncated, names something else, or does what is not needed for data;
            LookupError or TypeError if it is no pickle in other ways.
    """
    machine, bounded = _Machine(names), _Bounded(file)
    while (operation := _operation(bounded)).name != "STOP":
        machine.step(operation.name, _argument(operation, bounded))
    (found,) = machine.stack
    return found


def _operation(file: _Bounded) -> Any:
    """The next one, if it is of data: of others not even the argument is looked at."""
    operation = _OPERATIONS.get(file.read(1))
    if operation is None or operation.name not in _KNOWN:
        raise ValueError(f"it holds more than data ({operation and operation.name})")
    return operation


def _argument(operation: Any, file: _Bounded) -> Any:
    if operation.name == "GLOBAL":
        return file.line(), file.line()
    if operation.name in _BYTES:
        return file.piece(_BYTES[operation.name])
    return operation.arg and operation.arg.reader(file)


class _Bounded:
    """A file of which nobody asks more than there is: a claim of a gigabyte costs nothing."""

    def __init__(self, file: BufferedReader | BytesIO) -> None:
        self.file, self.size = file, file.seek(0, SEEK_END)
        self.left = SPARE * self.size
        file.seek(0)

    def read(self, count: int) -> bytes:
        self.check(count)
        return self.file.read(count)

    def piece(self, width: int) -> Piece:
        """Bytes that follow their count, a number of so many bytes; passed over."""
        count = int.from_bytes(self.read(width), "little")
        self.check(count)
        start = self.file.tell()
        self.file.seek(start + count)
        return Piece(self, start, count)

    def copy(self, start: int, count: int) -> bytearray:
        """Bytes that were passed over."""
        self.left -= count
        if self.left < 0:
            raise ValueError("its bytes are read over and over")
        found = bytearray(count)
        self.file.seek(start)
        if self.file.readinto(found) < count:
            raise ValueError("the file was cut off while it was read")
        return found

    def check(self, count: int) -> None:
        if not 0 <= count <= self.size - self.file.tell():
            raise ValueError(f"{count} bytes are announced, and the file ends before")

    def line(self) -> str:
        """A text up to the end of its line, as it is: who undoes escapes warns of wrong ones."""
        found = self.file.readline(1 << 10)
        if not found.endswith(b"\n"):
            raise ValueError("a line is too long, or has no end")
        return found[:-1].decode("ascii")


class _Machine:
    """A stack, what is below the marks on it, and a memo."""

    def __init__(self, names: Collection[Name] | None) -> None:
        self.names = names
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def step(self, operation: str, argument: Any) -> None:
        """Do one operation of those that are known."""
        if operation in _CONSTANTS:
            self.stack.append(_CONSTANTS[operation])
            return
        match operation:
            case _ if operation in _LITERALS:
                self.stack.append(argument)
            case "EMPTY_LIST":
                self.stack.append([])
            case "EMPTY_DICT":
                self.stack.append({})
            case "MARK":
                self.below.append(self.stack)
                self.stack = []
            case "TUPLE":
                items = self.marked()  # which changes the stack
                self.stack.append(tuple(items))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.stack.append(self.last(int(operation[-1])))
            case "APPEND":
                (item,) = self.last(1)
                self.list().append(item)
            case "APPENDS":
                items = self.marked()
                self.list().extend(items)
            case "SETITEM":
                self.enter(*self.last(2))
            case "SETITEMS":
                items = self.marked()
                for key, value in zip(items[::2], items[1::2], strict=True):
                    self.enter(key, value)
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case "GLOBAL":
                self.name(*argument)
            case "STACK_GLOBAL":
                self.name(*self.last(2))
            case "REDUCE" | "NEWOBJ":
                self.call(*self.last(2))
            case "BUILD":
                self.state(*self.last(2))

    def last(self, count: int) -> tuple[Any, ...]:
        """Take the last items off the stack."""
        if count > len(self.stack):
            raise ValueError("its stack is empty too early")
        found = tuple(self.stack[-count:])
        del self.stack[-count:]
        return found

    def marked(self) -> list[Any]:
        """Take all items above the last mark."""
        found, self.stack = self.stack, self.below.pop()
        return found

    def list(self) -> list[Any]:
        """The list on top of the stack."""
        if not isinstance(self.stack[-1], list):
            raise TypeError("something is appended to what is no list")
        return self.stack[-1]

    def enter(self, key: Any, value: Any) -> None:
        """Set an item of the dictionary on top of the stack, by a text: others may nest deeply."""
        if not (isinstance(self.stack[-1], dict) and isinstance(key, str)):
            raise TypeError("an item is set that has no text for its name")
        self.stack[-1][key] = value

    def name(self, module: Any, name: Any) -> None:
        """Note what would be imported."""
        if not (isinstance(module, str) and isinstance(name, str)):
            raise TypeError("it imports what has no name")
        if self.names is not None and (module, name) not in self.names:
            raise ValueError(f"it names {f'{module}.{name}'[:80]!r}, which is not data")
        self.stack.append(Name(module, name))

    def call(self, what: Any, arguments: Any) -> None:
        """Note what would be called."""
        if not (isinstance(what, Name) and type(arguments) is tuple):
            raise TypeError("it calls what has no name")
        self.stack.append(Made(what, arguments))

    def state(self, made: Any, state: Any) -> None:
        """Note the state of what a call would give, which may have one."""
        if not isinstance(made, Made) or made.state is not None:
            raise TypeError("it gives a state to what has one, or can have none")
        made.state = state
        self.stack.append(made)


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_NUMBERS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
_TEXTS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_BYTES = {"SHORT_BINBYTES": 1, "BINBYTES": 4, "BINBYTES8": 8, "BYTEARRAY8": 8}  # and their width
_LITERALS = _NUMBERS | _TEXTS | _BYTES.keys()
_SERIES = {"EMPTY_LIST", "EMPTY_DICT", "MARK", "APPEND", "APPENDS", "SETITEM", "SETITEMS"}
_TUPLES = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}
_MEMO = {"MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"}
_CALLS = {"GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD"}
_FRAMING = {"PROTO", "FRAME", "STOP"}
_KNOWN = _LITERALS | _CONSTANTS.keys() | _SERIES | _TUPLES | _MEMO | _CALLS | _FRAMING
_OPERATIONS = {operation.code.encode("latin-1"): operation for operation in pickletools.opcodes}
