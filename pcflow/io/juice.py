"""Circuits as PyJuice keeps them (.jpc), among them the published ones of CoDD.

A file is a pickle of a list of nodes, children first and the root last; of each its kind, its size
in blocks of units, its children by their numbers, and its parameters, which are probabilities.
Nodes that share the parameters of another name it by its number. The pickle is read as data:
whatever is in it, nothing is imported or called. Parameters are read one after another, as layers
are made of them.

Legend: K units, b units of a block, V categories, J units of all children, c units of a block of
theirs, E edges between blocks, H children.
"""

from __future__ import annotations

import os
from io import BufferedReader, BytesIO
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from pcflow.circuit import Circuit, InputLayer, Layer, Parameter, ProductLayer, SumLayer
from pcflow.errors import FileFormatError, PcflowError
from pcflow.inputs import Categorical
from pcflow.io.files import open_file
from pcflow.io.pickles import Made, Name, Piece, read_pickle

SLACK = 1e-3
"""By how much probabilities may miss a sum of one."""

SPARSE = 64
"""Weights that are zero take as much room as others: a file may grow by so many times."""

MOST = 1 << 26
"""Products that choose among more pairs of units than that are refused."""

Node = dict[str, Any]

_REBUILT = {Name(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")}
_BUFFERED = {Name(f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")}
_DTYPE = Name("numpy", "dtype")
_NAMES = _REBUILT | _BUFFERED | {_DTYPE, Name("numpy", "ndarray")}
_KINDS = {"f4", "f8", "i4", "i8", "b1"}
_CATEGORICAL = {
    Name("pyjuice.nodes.distributions.categorical", "Categorical"),
    Name("pyjuice.nodes.distributions.external_categorical", "ExternProductCategorical"),
}
_MALFORMED = (
    PcflowError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


def read_juice(path: str | os.PathLike[str]) -> Circuit:
    """Read a circuit over categorical variables that PyJuice saved (`juice.save`, *.jpc).

    Parameters that nodes share stay shared. Zeros become logarithms of zero, and stay zero. Nothing
    in the file is executed.

    Args:
        path: the file.

    Returns:
        The circuit.

    Raises:
        FileFormatError: if it is truncated or no such file, has inputs of other kinds than
            categories, is no smooth and decomposable circuit with one root unit, or holds what is
            not data; the message says which node.
        OSError: if it cannot be read, or is a folder, a pipe or a device.

    Examples:
        >>> import pickle, tempfile, pcflow as pf
        >>> with tempfile.NamedTemporaryFile(suffix=".jpc") as file:
        ...     pickle.dump([{"type": "Sum", "dist": print}], file)  # not data
        ...     file.flush()
        ...     try:
        ...         pf.read_juice(file.name)
        ...     except pf.errors.FileFormatError as error:
        ...         print(str(error).partition("(")[2])
        it names 'builtins.print', which is not data)
    """
    with open_file(path) as file:
        root = _root(_nodes(file), file.name)
    try:
        return Circuit(root)
    except PcflowError as error:
        raise FileFormatError(f"{path}: {error}") from error


def _nodes(file: BufferedReader) -> list[Node]:
    """What the pickle of a file says; parameters stay in it."""
    try:
        nodes = read_pickle(file, _NAMES)
    except _MALFORMED as error:
        raise FileFormatError(f"{file.name}: no circuit of PyJuice ({error})") from error
    if not (isinstance(nodes, list) and nodes and all(isinstance(n, dict) for n in nodes)):
        raise FileFormatError(f"{file.name}: no circuit of PyJuice (not a list of nodes)")
    return nodes


def _root(nodes: list[Node], name: str) -> Layer:
    """The last layer of nodes that a file of that name holds."""
    reader = _Reader(nodes)
    for number in range(len(nodes)):
        try:
            reader.read(number)
        except _MALFORMED as error:
            raise FileFormatError(f"{name}: node {number}: {error}") from error
    return reader.layers[-1]


class _Reader:
    """Makes layers of nodes, in their order."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        self.layers: list[Layer] = []
        self.parameters: dict[int, Parameter] = {}
        self.edges: dict[int, tuple[object, int]] = {}

    def read(self, number: int) -> None:
        """Make the layer of a node."""
        node = self.nodes[number]
        make = {"Input": self.input, "Product": self.product, "Sum": self.sum}.get(node["type"])
        if make is None:
            raise ValueError("is neither Input, Product nor Sum")
        source = node.get("source_node")
        self.layers.append(make(node, number if source is None else _whole(source)))

    def input(self, node: Node, source: int) -> Layer:
        """Units over one categorical variable."""
        (variable,) = node["scope"]
        units, categories = prod(_size(node)), _categories(node["dist"])
        if source not in self.parameters:
            log_probs = _normalised(self.probs(source).view(units, categories)).log_()
            self.parameters[source] = Parameter(log_probs.t())
        named = {"logits": self.parameters[source]}
        return InputLayer(_whole(variable), Categorical(categories), units, named)

    def product(self, node: Node, _: int) -> Layer:
        """Blocks of every child, side by side."""
        blocks, block = _size(node)
        children, chosen = self.children(node), _array(node["edge_ids"]).long()  # [blocks, H]
        if chosen.shape != (blocks, len(children)):
            raise ValueError(f"{blocks} blocks of {len(children)} children, by {chosen.shape}")
        pairs = zip(children, chosen.unbind(1), strict=True)
        factors = [_selected(child, column, block) for child, column in pairs]
        return factors[0] if len(factors) == 1 else ProductLayer(factors)

    def sum(self, node: Node, source: int) -> Layer:
        """Mixtures of blocks of all children."""
        children, edges = self.children(node), _array(node["edge_ids"]).long()  # [2, E]
        read = edges.tolist(), sum(child.units for child in children)
        if self.edges.setdefault(source, read) != read:
            raise ValueError(f"shares the parameters of node {source}, and has other edges")
        if source not in self.parameters:
            weight = _dense(self.probs(source), edges, *_size(node), read[1])
            self.parameters[source] = Parameter(_normalised(weight).log_())
        return SumLayer(children, self.parameters[source])

    def children(self, node: Node) -> list[Layer]:
        """Layers that were made before."""
        numbers = [_whole(number) for number in node["chs"]]
        if any(number >= len(self.layers) for number in numbers):
            raise ValueError("a child comes later")
        return [self.layers[number] for number in numbers]

    def probs(self, number: int) -> Tensor:
        """The parameters of a node, which are given away."""
        node = self.nodes[number]
        if node.get("external_params") is not None:
            raise ValueError("its parameters come from outside")
        found = _array(node.pop("params"))
        if not found.is_floating_point():
            raise TypeError("parameters that are no probabilities")
        return found


def _size(node: Node) -> tuple[int, int]:
    """Blocks, and units of a block; what older files call groups."""
    if "num_nodes" in node:
        return _whole(node["num_nodes"]), 1
    old = "num_node_groups" in node
    names = ("num_node_groups", "group_size") if old else ("num_node_blocks", "block_size")
    blocks, block = (_whole(node[name]) for name in names)
    return blocks, block


def _categories(given: Any) -> int:
    """V of a distribution, which is a pickle of its own."""
    made = read_pickle(BytesIO(_content(given)))
    if not isinstance(made, Made) or made.what not in _CATEGORICAL:
        what = ".".join(made.what) if isinstance(made, Made) else "something"
        raise ValueError(f"inputs of {what[:80]!r} are not read, only categorical ones")
    return _whole(made.state["num_cats"] if made.state else made.arguments[0])


def _array(made: Any) -> Tensor:
    """An array of numpy."""
    match made:
        case Made(what, (content, kind, shape, order)) if what in _BUFFERED:
            fortran = order == "F"
        case Made(what, _, (_, shape, kind, fortran, content)) if what in _REBUILT:
            pass
        case _:
            raise TypeError("numbers that are no array")
    if not (isinstance(kind, Made) and kind.what == _DTYPE and kind.arguments[0] in _KINDS):
        raise TypeError("an array of what is no number")
    flat = np.frombuffer(_content(content), np.dtype(kind.state[1] + kind.arguments[0]))
    sizes = tuple(map(_whole, shape))
    return torch.from_numpy(flat.reshape(sizes, order="F" if fortran else "C"))


def _content(given: Any) -> bytearray:
    """Bytes of the file."""
    if not isinstance(given, Piece):
        raise TypeError("a text or a number where bytes should be")
    return given.read()


def _normalised(probs: Tensor) -> Tensor:
    """The same [K, ...], if every row is a distribution."""
    sums = probs.sum(dim=1)
    off = ~((sums - 1).abs() <= SLACK) | (probs.amin(dim=1) < 0)  # NaN is off, too
    if bool(off.any()):
        unit = int(off.nonzero()[0])
        raise ValueError(f"the probabilities of unit {unit} sum to {sums[unit].item():g}")
    return probs


def _dense(probs: Tensor, edges: Tensor, blocks: int, block: int, read: int) -> Tensor:
    """Probabilities [E, b, c] of edges [2, E] as a matrix [K, J]."""
    (count, *inner), wide = probs.shape, probs.shape[2]
    if inner[0] != block or edges.shape != (2, count) or read % wide:
        raise ValueError(f"probabilities {tuple(probs.shape)} for blocks of {block}, {read} inputs")
    if blocks * block * read > SPARSE * probs.numel() + (1 << 20):
        raise ValueError(f"{count} edges are too few for {blocks * block} x {read} units")
    parent, child = edges
    places = parent * (read // wide) + child
    if not _within(parent, blocks) or not _within(child, read // wide):
        raise ValueError("an edge leads to no block")
    if len(places.unique()) < count:
        raise ValueError("an edge comes twice")
    weight = probs.new_zeros(blocks, block, read // wide, wide)
    weight[parent, :, child] = probs
    return weight.view(blocks * block, read)


def _selected(child: Layer, blocks: Tensor, block: int) -> Layer:
    """Chosen blocks of a child; itself, if that is all of them in order."""
    if child.units % block or not _within(blocks, child.units // block):
        raise ValueError(f"a child of {child.units} units has not these blocks of {block}")
    if torch.equal(blocks, torch.arange(child.units // block)):
        return child
    units = (blocks.unsqueeze(1) * block + torch.arange(block)).flatten()  # [K]
    if len(units) * child.units > MOST:
        raise ValueError(f"{len(units)} chosen units of {child.units} are too many")
    return SumLayer([child], Parameter.from_probs(one_hot(units, child.units).float()))


def _within(numbers: Tensor, count: int) -> bool:
    return bool(((numbers >= 0) & (numbers < count)).all())


def _whole(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise TypeError("a number that is no whole number")
    return number
