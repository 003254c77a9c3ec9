"""A language as a value: an automaton in its normal form, and what it is asked.

Legend: B batch, L length, V categories, C classes, S states, N draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pcflow.checks import check_generator, check_whole
from pcflow.circuit import Circuit
from pcflow.errors import EmptyLanguage, EvidenceError, StructureError
from pcflow.evidence import Numbers, as_tensor
from pcflow.logic.automata import picture
from pcflow.logic.automata.table import NOWHERE, Flags, Table, normal
from pcflow.logic.automata.uniform import uniform
from pcflow.plot import Diagram, graph, names_of, svg

if TYPE_CHECKING:
    import networkx as nx
    from matplotlib.axes import Axes


class Language:
    """What `Automaton` is and answers; see there."""

    def __init__(self, classes: Numbers, next: Numbers, start: int, accept: Numbers) -> None:
        """Check that it is an automaton, and bring it to its normal form."""
        given = [as_tensor(n, t).cpu() for n, t in (("classes", classes), ("next", next))]
        label, after = (_whole(n, t) for n, t in zip(("classes", "next"), given, strict=True))
        ends = as_tensor("accept", accept).cpu()
        _check(label, after, start, ends)
        self._set(Table(label.numpy(), after.numpy(), int(start), ends.bool().numpy()))

    @classmethod
    def _of(cls, table: Table) -> Self:
        found = cls.__new__(cls)
        found._set(table)
        return found

    def _set(self, table: Table) -> None:
        self._table = normal(table)
        self.classes, self.next = (torch.from_numpy(part.copy()) for part in self._table[:2])
        self.start, self.accept = 0, torch.from_numpy(self._table.accept.copy())

    @property
    def num_categories(self) -> int:
        """How many categories there are, V."""
        return len(self.classes)

    def run(self, x: Numbers, start: Numbers | None = None) -> Tensor:
        """The states [B] to which strings lead, -1 for those that no accepted string begins with.

        Args:
            x: categories [B, L].
            start: the states [B] from which they lead; the first by default.

        Raises:
            EvidenceError: if `x` are no categories in rows, or `start` are no states of these.

        Examples:
            >>> import pcflow as pf
            >>> rule = pf.Automaton.options([[0, 1], [0, 2]])
            >>> rule.run([[0, 1], [1, 1]])
            tensor([ 2, -1])
            >>> rule.run([[1], [2]], start=rule.run([[0], [1]]))
            tensor([ 2, -1])
        """
        strings = _whole("x", as_tensor("x", x))
        if strings.dim() != 2:
            raise EvidenceError(f"x must be [B, L], got {tuple(strings.shape)}")
        wrong = (strings < 0) | (strings >= self.num_categories)
        if bool(wrong.any()):
            row, place = (int(i) for i in wrong.nonzero()[0])
            wanted = f"must be in 0..{self.num_categories - 1}"
            raise EvidenceError(f"x: row {row}, place {place} is {strings[row, place]}, {wanted}")
        classes, ways = self.classes.to(strings.device), self._ways.to(strings.device)
        here = strings.new_zeros(len(strings))
        if start is not None:
            here = self.states("start", start).to(strings.device)
            if here.shape != strings.shape[:1]:
                raise EvidenceError(f"start must be [{len(strings)}], got {tuple(here.shape)}")
        for label in classes[strings].t():
            here = ways[here, label]
        return here

    def accepts(self, x: Numbers) -> Tensor:
        """Which strings [B, L] obey the rule, bool [B].

        Raises:
            EvidenceError: if they are no categories in rows.

        Examples:
            >>> import pcflow as pf
            >>> pf.Automaton.options([[0, 1], [2, 2]]).accepts([[2, 2], [0, 2]])
            tensor([ True, False])
        """
        state = self.run(x)
        return (state >= 0) & self.accept.to(state.device)[state]

    def states(self, name: str, given: Numbers) -> Tensor:
        """Numbers of states as a tensor, -1 for none.

        Raises:
            EvidenceError: if one is of no state; it has the `name`.
        """
        states = _whole(name, as_tensor(name, given))
        if bool(((states < -1) | (states >= len(self.next))).any()):
            raise EvidenceError(f"{name} must be states, -1..{len(self.next) - 1}, got {states}")
        return states

    def live(self, length: int, anywhere: bool = False) -> Tensor:
        """Through which states the accepted strings of a length pass, bool [L + 1, S].

        Args:
            length: how many positions there are, L.
            anywhere: ask for stretches of that length of accepted strings of any length.

        Raises:
            EmptyLanguage: if none is of that length.

        Examples:
            >>> import pcflow as pf
            >>> pf.Automaton.options([[0, 1], [2]]).live(2).sum(-1)
            tensor([1, 1, 1])
            >>> pf.Automaton.options([[0, 1], [2]]).live(1, anywhere=True).sum(-1)
            tensor([2, 2])
        """
        return torch.from_numpy(self._live(length, anywhere))

    def log_counts(self, most: int) -> Tensor:
        """The logarithms of how many ways lead from every state to an end, [most + 1, S].

        In row n those of n categories, -inf where there is none: so it says what is still possible
        in the n places that are left.

        Examples:
            >>> import pcflow as pf
            >>> pf.Automaton.options([[0, 1], [2, 1], [1]]).log_counts(2).exp()
            tensor([[0., 0., 1.],
                    [1., 1., 0.],
                    [2., 0., 0.]], dtype=torch.float64)
        """
        check_whole("most", most, least=0)
        return torch.from_numpy(self._log_counts(most)[::-1].copy())

    def log_count(self, length: int) -> float:
        """The logarithm of how many strings of a length are accepted; -inf if none is.

        Examples:
            >>> import pcflow as pf
            >>> round(pf.Automaton.lengths(0, None, num_categories=7).log_count(3), 3)
            5.838
        """
        check_whole("length", length, least=0)
        return float(self._log_counts(length)[0, 0])

    def sample(self, n: int, length: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws [n, L] of the accepted strings of a length, all of them equally probable.

        Raises:
            EmptyLanguage: if none is of that length.

        Examples:
            >>> import pcflow as pf
            >>> rule = pf.Automaton.phrases([[1, 1]])
            >>> bool(rule.accepts(rule.sample(5, length=4)).all())
            True
        """
        check_whole("n", n, least=0)
        check_generator(generator)
        self._live(length)
        log_counts, state = self._log_counts(length), torch.zeros(n, dtype=torch.long)
        drawn = torch.empty(n, length, dtype=torch.long)
        for place in range(length):
            log_count = self._onward(log_counts[place + 1])  # [S, C]
            share = torch.from_numpy(log_count)[state].softmax(dim=-1)  # [N, C]
            label = share.multinomial(1, generator=generator).squeeze(-1) if n else state
            drawn[:, place] = self._some_of(label, generator)
            state = self._ways[state, label]
        return drawn

    def circuit(self, length: int) -> Circuit:
        """All accepted strings of a length with equal probability, as a deterministic circuit.

        To ask what circuits are asked: its entropy is `log_count`. And to make a circuit of its own
        of a product: `multiply` takes it with what is split as a hidden Markov chain is, while
        `CompiledCircuit.given` takes all whose products split neighbouring variables.

        Args:
            length: at least 1.

        Raises:
            EmptyLanguage: if none is of that length.

        Examples:
            >>> import pcflow as pf
            >>> rule = pf.Automaton.options([[0, 1], [1, 1]])
            >>> pf.compile(rule.circuit(2)).log_prob([[0, 1], [0, 0]]).exp().tolist()
            [0.5, 0.0]
        """
        check_whole("length", length)
        self._live(length)
        return uniform(self._table, self._log_counts(length))

    def to_networkx(self) -> nx.DiGraph[int]:
        """The graph for networkx: states with `accept`, edges with the `classes` that take them.

        Examples:
            >>> import pcflow as pf
            >>> pf.Automaton.options([[0, 1]]).to_networkx().edges(data="classes")
            OutEdgeDataView([(0, 1, (0,)), (1, 2, (1,))])
        """
        return picture.to_networkx(self._table)

    def diagram(self, names: Sequence[object] | None = None, most: int = 40) -> Diagram:
        """Boxes and arrows of a picture; `pf.plot.graph` draws it, and notebooks do.

        Args:
            names: of the categories; their numbers by default.
            most: of more states, those of a distance from the first are one box.

        Returns:
            A plain value: states in rows by their distance from the first, and edges with the first
            categories that lead along them.

        Raises:
            SettingError: if there are not as many names as categories, or `most` is no whole
                number.

        Examples:
            >>> import pcflow as pf
            >>> pf.Automaton.options([[0, 1], [2]]).diagram(["a", "b", "c"]).edges[0].label
            'a'
        """
        check_whole("most", most, least=0)
        return picture.diagram(self._table, names_of("names", names, self.num_categories), most)

    def draw(self, names: Sequence[object] | None = None, axes: Axes | None = None) -> Axes:
        """Draw states and the first categories of every edge; the same as `pf.plot.graph`.

        Args:
            names: of the categories; their numbers by default.
            axes: matplotlib axes to draw on; those of a new figure by default.

        Returns:
            The axes: states from top to bottom by their distance from the first.

        Raises:
            TypeMismatch: if `axes` are none.
            SettingError: if there are not as many names as categories.

        Examples:
            >>> import pcflow as pf
            >>> pf.Automaton.options([[0, 1], [2]]).draw(["a", "b", "c"]).get_title()
            'Automaton: 3 states, 3 classes of 3 categories'
        """
        return graph(self, names_of("names", names, self.num_categories), axes=axes)

    def _repr_svg_(self) -> str:
        """What notebooks show."""
        return svg(self)

    def __eq__(self, other: object) -> bool:
        """Whether both accept the same strings, over the same categories."""
        return isinstance(other, Language) and self._key == other._key

    def __hash__(self) -> int:
        """Of the normal form."""
        return hash(self._key)

    def __repr__(self) -> str:
        """Sizes."""
        states, classes = self.next.shape
        return f"Automaton({states} states, {classes} classes of {self.num_categories} categories)"

    @cached_property
    def _key(self) -> tuple[bytes, ...]:
        return tuple(part.tobytes() for part in (*self._table[:2], self._table.accept))

    @cached_property
    def _ways(self) -> Tensor:
        """The state after every state and class, of which the last is NOWHERE: [S + 1, C]."""
        return torch.cat([self.next, torch.full((1, self.next.shape[1]), NOWHERE)])

    @cached_property
    def _sizes(self) -> Tensor:
        """How many categories every class has, [C]."""
        return torch.bincount(self.classes, minlength=self.next.shape[1])

    def _some_of(self, label: Tensor, generator: torch.Generator | None) -> Tensor:
        """A category [N] of every class."""
        sizes = self._sizes
        first = sizes.cumsum(0) - sizes
        share = torch.rand(len(label), generator=generator, dtype=torch.float64)
        return self.classes.argsort(stable=True)[first[label] + (share * sizes[label]).long()]

    def _live(self, length: int, anywhere: bool = False) -> Flags:
        check_whole("length", length, least=0)
        last = np.ones(len(self.next), dtype=np.bool_) if anywhere else self._table.accept
        ends = self._log_counts(length, last) > -np.inf  # [L + 1, S]
        live = np.zeros_like(ends)
        live[0] = ends[0] if anywhere else ends[0] & (np.arange(len(last)) == 0)
        if not live[0].any():
            raise EmptyLanguage(f"no string of length {length} is accepted by {self}")
        for place, here in enumerate(live[:-1]):
            after = self._table.next[here]
            live[place + 1, after[after >= 0]] = True
            live[place + 1] &= ends[place + 1]
        return live

    def _log_counts(self, length: int, ends: Flags | None = None) -> npt.NDArray[np.float64]:
        """In how many ways the rest can follow from every state, by its length from the end."""
        ends = self._table.accept if ends is None else ends
        with np.errstate(divide="ignore"):
            found = [np.log(ends.astype(np.float64))]
        for _ in range(length):
            found.append(np.logaddexp.reduce(self._onward(found[-1]), axis=1))
        return np.stack(found[::-1])

    def _onward(self, log_count: Any) -> Any:
        """The same of every class that leads there, [S, C]."""
        return np.append(log_count, -np.inf)[self._table.next] + np.log(self._sizes.numpy())


def _whole(name: str, given: Tensor) -> Tensor:
    whole = given.long()
    if given.is_floating_point() and not torch.equal(whole.to(given.dtype), given):
        raise EvidenceError(f"{name} must be whole numbers")
    return whole


def _check(classes: Tensor, after: Tensor, start: int, accept: Tensor) -> None:
    """See that numbers are an automaton.

    Raises:
        StructureError: naming what does not fit.
    """
    check_whole("start", start, least=0)
    if classes.dim() != 1 or after.dim() != 2 or accept.shape != after.shape[:1]:
        shapes = [tuple(t.shape) for t in (classes, after, accept)]
        raise StructureError(f"an automaton has classes [V], next [S, C], accept [S]; got {shapes}")
    states, count = after.shape
    if not len(classes) or not 0 <= int(classes.min()) <= int(classes.max()) < count:
        raise StructureError(f"classes must be in 0..{count - 1}, of at least one category")
    if start >= states or not -1 <= int(after.min()) <= int(after.max()) < states:
        raise StructureError(f"states must be in 0..{states - 1}, or -1 in `next`")
