"""The circuit itself: layers that are proved smooth and decomposable as they are put together.

A circuit is what can be reached from its root layer. This is the intermediate representation:
`compile` turns it into tensors, `reference` evaluates it line by line, files store it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from pcflow.checks import check_kind, check_whole
from pcflow.circuit import picture
from pcflow.circuit.code import code
from pcflow.circuit.layers import (
    Immutable,
    InputLayer,
    Layer,
    Parameter,
    ProductLayer,
    SumLayer,
    layer_parameters,
)
from pcflow.circuit.properties import Properties
from pcflow.circuit.scopes import Scopes
from pcflow.errors import StructureError
from pcflow.plot import Diagram, counted, names_of, svg

if TYPE_CHECKING:
    import networkx as nx

T = TypeVar("T")


class Circuit(Immutable):
    """A smooth and decomposable circuit: a normalised joint distribution over its variables.

    Args:
        root: the output layer; it must have one unit.

    Raises:
        NotSmooth: if a sum layer mixes inputs of different scopes.
        NotDecomposable: if a product's inputs share a variable.
        StructureError: if the root has several units, the variables are not 0, ..., D - 1, or input
            layers disagree on the number of categories of a variable.

    Attributes:
        root: the output layer.
        layers: every layer, inputs before the layers that read them.
        num_variables: how many variables there are, D.
        num_categories: for each variable its number of categories, None if it has no finite range.
        scopes: the scope of every layer.

    Examples:
        >>> from pcflow.inputs import Bernoulli, Indicator
        >>> coins = [InputLayer.random(v, Bernoulli()) for v in range(2)]
        >>> print(Circuit(ProductLayer(coins)))
        Circuit(2 variables, 3 layers, 2 parameters)

        Small ones are told by code that builds them again:

        >>> Circuit(InputLayer(0, Indicator(1)))
        Circuit(InputLayer(0, Indicator(values=(1,), num_categories=2)))
    """

    def __init__(self, root: Layer) -> None:
        """Sort the layers and prove the structure."""
        check_kind("root", root, Layer, "a layer")
        if root.units != 1:
            raise StructureError(f"the root must have one unit, {root} has {root.units}")
        self.root = root
        self.layers: tuple[Layer, ...] = tuple(_bottom_up(root))
        self.num_categories = self._categories()
        self.num_variables = len(self.num_categories)
        self.scopes = Scopes(self.layers)

    if not TYPE_CHECKING:  # type checkers go on to see what is not there

        def __getattr__(self, name: str) -> object:
            """Whoever looks for a query here is told where it is."""
            raise AttributeError(
                f"'Circuit' object has no attribute {name!r}: a circuit only says what is "
                "computed; pf.compile(circuit) answers queries",
                name=name,
                obj=self,
            )

    def scope(self, layer: Layer) -> tuple[int, ...]:
        """The variables below a layer, sorted.

        Args:
            layer: one of `layers`.

        Examples:
            >>> from pcflow.inputs import Bernoulli
            >>> coins = [InputLayer.random(v, Bernoulli()) for v in range(2)]
            >>> circuit = Circuit(ProductLayer(coins))
            >>> [circuit.scope(layer) for layer in circuit.layers]
            [(0,), (1,), (0, 1)]
        """
        return self.scopes.variables(self.scopes[layer])

    @cached_property
    def properties(self) -> Properties:
        """What is proved of the circuit; print it.

        Examples:
            >>> from pcflow.inputs import Bernoulli
            >>> print(Circuit(InputLayer.random(0, Bernoulli())).properties)
            smooth: 0 sum layers mix inputs of equal scopes
            decomposable: 0 product layers multiply inputs of disjoint scopes
            structured-decomposable: vtree 0
            deterministic: no sum has two inputs to choose from
            omni-compatible: products split variables one by one
        """
        return Properties(self)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Every distinct parameter, in the order of the layers."""
        return tuple(dict.fromkeys(p for layer in self.layers for p in layer_parameters(layer)))

    def replace(self, values: Mapping[Parameter, Tensor]) -> Circuit:
        """The same structure with other parameter values; ties are kept.

        Args:
            values: by the parameter that they replace, in its shape; others stay as they are.

        Examples:
            >>> import torch
            >>> from pcflow.inputs import Bernoulli
            >>> coin = Circuit(InputLayer.random(0, Bernoulli()))
            >>> (weight,) = coin.parameters
            >>> fair = coin.replace({weight: torch.zeros_like(weight.value)})
            >>> fair.parameters[0].value.item(), fair.num_variables
            (0.0, 1)
        """
        renewed = {p: Parameter(values[p]) if p in values else p for p in self.parameters}

        def at_input(layer: InputLayer) -> Layer:
            return replace(layer, parameters={n: renewed[p] for n, p in layer.parameters.items()})

        def at_sum(layer: SumLayer, inputs: tuple[Layer, ...]) -> Layer:
            return replace(layer, inputs=inputs, weight=renewed[layer.weight])

        def at_product(layer: ProductLayer, inputs: tuple[Layer, ...]) -> Layer:
            return replace(layer, inputs=inputs)

        return Circuit(self.fold(at_input, at_sum, at_product))

    def fold(
        self,
        at_input: Callable[[InputLayer], T],
        at_sum: Callable[[SumLayer, tuple[T, ...]], T],
        at_product: Callable[[ProductLayer, tuple[T, ...]], T],
    ) -> T:
        """What the root becomes, if every layer becomes something made of what its inputs became.

        Args:
            at_input: makes it of an input layer.
            at_sum: makes it of a sum layer and what its inputs became.
            at_product: the same of a product layer.

        Returns:
            What the root became.

        Examples:
            >>> from pcflow.inputs import Bernoulli
            >>> circuit = Circuit(ProductLayer([InputLayer.random(v, Bernoulli()) for v in (0, 1)]))
            >>> circuit.fold(lambda layer: 1, lambda layer, n: sum(n), lambda layer, n: sum(n))
            2
        """
        found: dict[Layer, T] = {}
        for layer in self.layers:
            below = tuple(found[child] for child in layer.inputs)
            match layer:
                case InputLayer():
                    found[layer] = at_input(layer)
                case SumLayer():
                    found[layer] = at_sum(layer, below)
                case ProductLayer():
                    found[layer] = at_product(layer, below)
        return found[self.root]

    def to_networkx(self) -> nx.DiGraph[Layer]:
        """The graph for networkx: nodes are layers, edges point to what a layer reads.

        Returns:
            Nodes have a `kind`, "input", "sum" or "product", a `scope`, which is a sorted tuple of
            variables, and `units`.

        Examples:
            >>> from pcflow.inputs import Bernoulli
            >>> circuit = Circuit(InputLayer.random(0, Bernoulli()))
            >>> circuit.to_networkx().nodes[circuit.root]
            {'kind': 'input', 'scope': (0,), 'units': 1}
        """
        import networkx as nx

        graph: nx.DiGraph[Layer] = nx.DiGraph()
        for layer in self.layers:
            about = {"kind": picture.kind_of(layer), "scope": self.scope(layer)}
            graph.add_node(layer, **about, units=layer.units)
        graph.add_edges_from((layer, child) for layer in self.layers for child in layer.inputs)
        return graph

    def diagram(self, names: Sequence[str] | None = None, most: int = 40) -> Diagram:
        """Boxes and lines of a picture; `pf.plot.graph` draws it, and notebooks do.

        Args:
            names: of the variables; their numbers by default.
            most: of more layers, those of a kind and level are one box.

        Returns:
            A plain value: nodes in rows, and edges.

        Raises:
            SettingError: if there are not as many names as variables, or `most` is no whole number.

        Examples:
            >>> from pcflow.inputs import Bernoulli
            >>> Circuit(InputLayer.random(0, Bernoulli())).diagram(["heads"]).nodes[0].lines
            ('heads', 'Bernoulli', '1 unit')
        """
        check_whole("most", most, least=0)
        told = None if names is None else names_of("names", names, self.num_variables)
        return picture.diagram(f"Circuit: {self.sizes}", self.layers, self.scopes, told, most)

    def _repr_svg_(self) -> str:
        """What notebooks show."""
        return svg(self)

    @property
    def sizes(self) -> str:
        """Variables, layers and parameters, tied ones once, in words."""
        count = sum(p.value.numel() for p in self.parameters)
        counts = (self.num_variables, "variable"), (len(self.layers), "layer"), (count, "parameter")
        return ", ".join(counted(number, noun) for number, noun in counts)

    def __str__(self) -> str:
        """Sizes."""
        return f"Circuit({self.sizes})"

    def __repr__(self) -> str:
        """Code that builds it again if it is small, sizes if it is large."""
        return code(self.layers) or str(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """By its layers in order: each finds its inputs pickled before it, so nothing recurses."""
        return _of_layers, (self.layers,)

    def _categories(self) -> tuple[int | None, ...]:
        found: dict[int, int | None] = {}
        for layer in self.layers:
            if isinstance(layer, InputLayer):
                categories = layer.family.num_categories
                if found.setdefault(layer.variable, categories) != categories:
                    raise StructureError(
                        f"variable {layer.variable} has {found[layer.variable]} categories in one "
                        f"input layer and {categories} in another"
                    )
        absent = next(v for v in count() if v not in found)
        if absent < len(found):
            raise StructureError(f"variables must be 0..{max(found)}, but {absent} is in no input")
        return tuple(found[v] for v in range(len(found)))


def is_deterministic(circuit: Circuit) -> bool:
    """Whether `circuit.properties` has a certificate of it; False means "not proved".

    Args:
        circuit: the circuit.

    Returns:
        Whether it is proved.

    Examples:
        >>> import pcflow as pf
        >>> is_deterministic(pf.hmm(3, states=2, inputs=pf.Bernoulli()))
        False
    """
    check_kind("circuit", circuit, Circuit, "a Circuit")
    return circuit.properties.deterministic is not None


def _of_layers(layers: tuple[Layer, ...]) -> Circuit:
    """The circuit of its pickled layers."""
    return Circuit(layers[-1])


def _bottom_up(root: Layer) -> Iterator[Layer]:
    """Depth-first postorder without recursion: chains are as deep as they are long."""
    seen = {root}
    stack = [(root, iter(root.inputs))]
    while stack:
        layer, inputs = stack[-1]
        child = next(inputs, None)
        if child is None:
            stack.pop()
            yield layer
        elif child not in seen:
            seen.add(child)
            stack.append((child, iter(child.inputs)))
