"""Typed errors: each names what is wrong and where, and carries the witness as attributes.

Every error is also a `ValueError` or a `TypeError`, so code that catches those keeps working.
"""

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, Self


class PcflowError(Exception):
    """Base class of every error that pcflow raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Message and witness, past an `__init__` that takes the witness and makes the message."""
        return _without_init, (type(self), *self.args), self.__dict__


class SettingError(PcflowError, ValueError):
    """A setting is out of its range.

    Attributes:
        name: the argument or field.
        value: what it was given.
        wanted: what it must be, to follow "must be".

    Examples:
        >>> print(SettingError("alpha", -1, "at least 0"))
        alpha must be at least 0, got -1
    """

    def __init__(self, name: str, value: object, wanted: str) -> None:
        """Keep all three."""
        self.name, self.value, self.wanted = name, value, wanted
        super().__init__(f"{name} must be {wanted}, got {value!r}")

    @classmethod
    def check(cls, name: str, value: Any, wanted: str, holds: Callable[[Any], bool]) -> None:
        """Raise it if something does not hold of a setting, or cannot be asked.

        Args:
            name: of the setting, as users write it.
            value: what was given.
            wanted: what it must be, in words: "... must be ...".
            holds: says whether it is; what it raises is a no.

        Raises:
            SettingError: if not.

        Examples:
            >>> SettingError.check("rate", 0.5, "at most 0.1", lambda rate: rate <= 0.1)
            Traceback (most recent call last):
            ...
            pcflow.errors.SettingError: rate must be at most 0.1, got 0.5
        """
        try:
            fine = bool(holds(value))
        except (TypeError, ValueError, RuntimeError, OverflowError):
            fine = False
        if not fine:
            raise cls(name, value, wanted)


class TypeMismatch(PcflowError, TypeError):
    """An argument is of a kind that is not understood.

    Attributes:
        name: the argument.
        value: what it was given.
        wanted: what it must be, to follow "must be".

    Examples:
        >>> print(TypeMismatch("train", [0, 1], "a tensor"))
        train must be a tensor, got list
    """

    def __init__(self, name: str, value: object, wanted: str) -> None:
        """Keep all three."""
        self.name, self.value, self.wanted = name, value, wanted
        super().__init__(f"{name} must be {wanted}, got {_kind(value)}")


def _kind(value: object) -> str:
    """What was given, in a word; of a class its name, as what is missing are its brackets."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


class Unsupported(PcflowError, TypeError):
    """Torch asks for something that the engine does not do: a transform, or a second derivative."""


class StructureError(PcflowError, ValueError):
    """A region graph or circuit is not well formed."""


class NotSmooth(StructureError):
    """A sum layer mixes inputs of different scopes.

    Attributes:
        layer: the offending sum layer.
        scopes: the scope of each of its inputs, as sorted tuples of variables.
    """

    def __init__(self, layer: object, scopes: Sequence[tuple[int, ...]]) -> None:
        """Keep the layer and the scopes that differ."""
        self.layer, self.scopes = layer, tuple(scopes)
        super().__init__(f"not smooth: {layer} mixes inputs of scopes {_join(scopes)}")


class NotDecomposable(StructureError):
    """A product multiplies inputs whose scopes overlap.

    Attributes:
        layer: the offending product layer (or partition).
        scopes: the scope of each of its inputs, as sorted tuples of variables.
    """

    def __init__(self, layer: object, scopes: Sequence[tuple[int, ...]]) -> None:
        """Keep the layer and the scopes that overlap."""
        self.layer, self.scopes = layer, tuple(scopes)
        shared = sorted(v for v in set().union(*scopes) if sum(v in s for s in scopes) > 1)
        names = ", ".join(map(str, shared[:8])) + (", ..." if len(shared) > 8 else "")
        super().__init__(
            f"not decomposable: {layer} multiplies inputs of scopes {_join(scopes)}, "
            f"which share variable {names}"
        )


class PropertyRequired(PcflowError, ValueError):
    """A query needs a structural property that the circuit does not have."""

    def named(self, query: str, instead: str = "") -> Self:
        """The same refusal in the name of the query that asked, and what there is without it.

        Args:
            query: its name.
            instead: what answers without the property; nothing is said if empty.
        """
        hint = f"; without it: {instead}" if instead else ""
        twin = copy(self)
        twin.args = (f"{query} needs a property that the circuit lacks: {self}{hint}",)
        return twin


class NotStructuredDecomposable(PropertyRequired):
    """Two scopes of a circuit cross, so that no vtree holds both.

    Attributes:
        layers: a layer of each scope.
        scopes: the two scopes, as sorted tuples of variables.
    """

    def __init__(self, layers: Sequence[object], scopes: Sequence[tuple[int, ...]]) -> None:
        """Keep the layers and their scopes."""
        self.layers, self.scopes = tuple(layers), tuple(scopes)
        super().__init__(
            f"not structured-decomposable: scopes {_join(scopes)}, of {layers[0]} and {layers[1]}, "
            "cross"
        )


class NotDeterministic(PropertyRequired):
    """Nothing tells two inputs of a sum unit apart.

    Attributes:
        layer: the sum layer.
        unit: its unit.
        inputs: the two inputs, each a layer and the index of its unit.
    """

    def __init__(
        self, layer: object, unit: int, inputs: tuple[tuple[object, int], tuple[object, int]]
    ) -> None:
        """Keep the sum unit and the two inputs."""
        self.layer, self.unit, self.inputs = layer, unit, inputs
        (a, i), (b, j) = inputs
        super().__init__(
            f"not deterministic: unit {unit} of {layer} may add up unit {i} of {a} and unit {j} "
            f"of {b}, which nothing is proved to tell apart"
        )


class NotCompatible(PropertyRequired):
    """Two layers over the same variables split them in ways that do not nest.

    Attributes:
        layers: the two layers.
        scopes: for each of them, the scopes of its inputs.
    """

    def __init__(
        self,
        a: object,
        b: object,
        scopes_a: Sequence[tuple[int, ...]],
        scopes_b: Sequence[tuple[int, ...]],
    ) -> None:
        """Keep both layers and their inputs' scopes."""
        self.layers, self.scopes = (a, b), (tuple(scopes_a), tuple(scopes_b))
        super().__init__(
            f"not compatible: {a} is over {_join(scopes_a)}, {b} over {_join(scopes_b)}"
        )


class NotOmniCompatible(PropertyRequired):
    """A product has an input of several variables.

    Attributes:
        layer: the product layer.
        scopes: the scope of each of its inputs.
    """

    def __init__(self, layer: object, scopes: Sequence[tuple[int, ...]]) -> None:
        """Keep the layer and its inputs' scopes."""
        self.layer, self.scopes = layer, tuple(scopes)
        super().__init__(
            f"not omni-compatible: {layer} multiplies inputs of scopes {_join(scopes)}"
        )


class NotAChain(PropertyRequired):
    """A circuit is not a hidden Markov chain: a sum over states, emissions beside the next sum.

    Attributes:
        layer: the first layer, from the root down, that is not of this form.
    """

    def __init__(self, layer: object) -> None:
        """Keep the layer."""
        self.layer = layer
        super().__init__(
            f"not a hidden Markov chain: {layer} is neither a dense sum over states nor the "
            "emissions of a state beside the sum over the next"
        )


class EvidenceError(PcflowError, ValueError):
    """Evidence or data do not fit: shape, range, type, or NaN potentials."""


class FeatureError(EvidenceError):
    """A feature of some row is no number, or infinite; features have no gaps.

    Attributes:
        row: which row; of `fit`, that of the data.
        column: which feature.
        value: what it is.
    """

    def __init__(self, row: int, column: int, value: float) -> None:
        """Keep where it is."""
        self.row, self.column, self.value = row, column, value
        super().__init__(f"features[{row}, {column}] is {value}, but features have no gaps")


class NoMassError(EvidenceError):
    """Some rows of the evidence have probability zero, so there is nothing to draw from.

    The others are `numpy.delete(x, error.rows, axis=0)`, or beforehand those whose `log_prob` is
    above -inf.

    Attributes:
        rows: the indices of the impossible rows, all of them; of `fit`, those met first.
        never: a variable of the first of them, and its value, if the circuit never has that value,
            whatever the others are; else None, and it is what the row says together.
    """

    def __init__(
        self,
        rows: Sequence[int],
        query: str,
        never: tuple[int, float] | None = None,
        ruled: bool = False,
    ) -> None:
        """Keep the rows, and why; `ruled` if a rule is what may forbid it."""
        self.rows, self.never = tuple(rows), never
        shown = ", ".join(map(str, self.rows[:8])) + (", ..." if len(self.rows) > 8 else "")
        told = f"{query}: the evidence has probability zero in row {shown}"
        if never is not None:
            variable, value = never
            shown = f"{value:g}" if isinstance(value, float) else str(value)
            told += f"; variable {variable} never has the value {shown}"
            told += " under the rule: " if ruled else ": learn with a pseudocount, or "
            told += "take the value for missing"
        super().__init__(told)


class NotANumber(PcflowError, ValueError):
    """Some rows have a log-probability that is NaN: so is a parameter of the model.

    Attributes:
        rows: the indices of these rows.
    """

    def __init__(self, rows: Sequence[int], query: str) -> None:
        """Keep the rows."""
        self.rows = tuple(rows)
        shown = ", ".join(map(str, self.rows[:8])) + (", ..." if len(self.rows) > 8 else "")
        super().__init__(
            f"{query}: the log-probability is NaN in row {shown}; look for NaN in the parameters"
        )


class Unsatisfiable(PcflowError, ValueError):
    """No assignment of non-zero weight satisfies a formula, so there is no distribution over them.

    Attributes:
        cnf: the formula, with a clause for every value that has weight zero.
    """

    def __init__(self, cnf: object) -> None:
        """Keep the formula."""
        self.cnf = cnf
        super().__init__(f"no assignment of non-zero weight satisfies {cnf}")


class EmptyLanguage(PcflowError, ValueError):
    """No string obeys a rule, or none of the length that is asked for."""


class CannotEnd(PcflowError, ValueError):
    """Strings come to states of an automaton from which none ends: no vocabulary goes on there.

    Attributes:
        states: these states, by the numbers of who made the automaton.
    """

    def __init__(self, states: Sequence[object]) -> None:
        """Keep the states."""
        self.states = tuple(states)
        shown = ", ".join(map(str, self.states[:8])) + (", ..." if len(self.states) > 8 else "")
        super().__init__(f"no string ends from state {shown}")


class PatternError(PcflowError, ValueError):
    """A regular expression or JSON schema is not understood, or no vocabulary can say it.

    Attributes:
        pattern: what was given.
    """

    def __init__(self, pattern: str, reason: str) -> None:
        """Keep the pattern."""
        self.pattern = pattern
        super().__init__(f"pattern {pattern[:80]!r}: {reason}")


class FileFormatError(PcflowError, ValueError):
    """A file is truncated, of another format, or hostile; nothing was loaded."""


class FileFormatWarning(UserWarning):
    """A file was read, but not all in it is as its format says: counts, or unused nodes."""


class NotAskedWarning(UserWarning):
    """A check passed, but could not ask if probabilities sum to one, or if draws follow them."""


def _without_init(kind: type[PcflowError], *args: object) -> PcflowError:
    return kind.__new__(kind, *args)


def _join(scopes: Sequence[tuple[int, ...]]) -> str:
    return " and ".join(_braces(s) for s in scopes[:4]) + (" and ..." if len(scopes) > 4 else "")


def _braces(scope: tuple[int, ...]) -> str:
    return "{" + ", ".join(map(str, scope[:8])) + (", ...}" if len(scope) > 8 else "}")
