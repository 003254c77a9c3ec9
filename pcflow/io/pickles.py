"""Pickles as data: what one would build is told, and nothing of it is ever built.

A pickle is a program for a machine with a stack. Ours knows numbers, texts, bytes, lists, tuples
and dictionaries; of everything else it notes the name and what the call would be given. Nothing is
imported and nothing is called, whatever the file says.

Source: the operations as the module `pickletools` of Python's library describes them.
"""

from __future__ import annotations

import os
import pickletools
from collections.abc import Collection
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from typing import IO, Any, NamedTuple


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


def read_pickle(file: BufferedReader | bytes, names: Collection[Name] | None = None) -> Any:
    """What a pickle would build, with a `Made` in place of every object.

    Args:
        file: open, or the pickle itself.
        names: which may occur; any by default.

    Raises:
        ValueError: if it is truncated, names something else, or does what is not needed for data;
            LookupError or TypeError if it is no pickle in other ways.
    """
    machine, bounded = _Machine(names), _bounded(file)
    while (operation := _operation(bounded)).name != "STOP":
        machine.step(operation.name, operation.arg and operation.arg.reader(bounded))
    (found,) = machine.stack
    return found


def _operation(file: _Bounded) -> Any:
    """The next one, if it is of data: of others not even the argument is looked at."""
    operation = _OPERATIONS.get(file.read(1))
    if operation is None or operation.name not in _KNOWN:
        raise ValueError(f"it holds more than data ({operation and operation.name})")
    return operation


class _Bounded:
    """A file of which nobody asks more than there is: a claim of a gigabyte costs nothing."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file, self.size = file, size

    def read(self, count: int) -> bytes:
        if not 0 <= count <= self.size - self.file.tell():
            raise ValueError(f"{count} bytes are announced, and the file ends before")
        return self.file.read(count)

    def readline(self) -> bytes:
        return self.file.readline(1 << 10)


def _bounded(file: BufferedReader | bytes) -> _Bounded:
    if isinstance(file, bytes):
        return _Bounded(BytesIO(file), len(file))
    return _Bounded(file, os.fstat(file.fileno()).st_size)


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
                self.name(*argument.split(" "))
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
_BYTES = {"SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_LITERALS = _NUMBERS | _TEXTS | _BYTES
_SERIES = {"EMPTY_LIST", "EMPTY_DICT", "MARK", "APPEND", "APPENDS", "SETITEM", "SETITEMS"}
_TUPLES = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}
_MEMO = {"MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"}
_CALLS = {"GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD"}
_FRAMING = {"PROTO", "FRAME", "STOP"}
_KNOWN = _LITERALS | _CONSTANTS.keys() | _SERIES | _TUPLES | _MEMO | _CALLS | _FRAMING
_OPERATIONS = {operation.code.encode("latin-1"): operation for operation in pickletools.opcodes}
