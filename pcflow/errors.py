"""Typed errors: each names what is wrong and where, and carries the witness as attributes.

Every error is also a `ValueError` or a `TypeError`, so code that catches those keeps working.
"""

from collections.abc import Sequence


class PcflowError(Exception):
    """Base class of every error that pcflow raises on purpose."""


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


class EvidenceError(PcflowError, ValueError):
    """Evidence does not fit the circuit: width, range, type, or NaN potentials."""


class NoMassError(EvidenceError):
    """Some rows of the evidence have probability zero, so there is nothing to draw from.

    Attributes:
        rows: the indices of the impossible rows.
    """

    def __init__(self, rows: Sequence[int], query: str) -> None:
        """Keep the rows."""
        self.rows = tuple(rows)
        shown = ", ".join(map(str, self.rows[:8])) + (", ..." if len(self.rows) > 8 else "")
        super().__init__(f"{query}: the evidence has probability zero in row {shown}")


class Unsatisfiable(PcflowError, ValueError):
    """No assignment of non-zero weight satisfies a formula, so there is no distribution over them.

    Attributes:
        cnf: the formula, with a clause for every value that has weight zero.
    """

    def __init__(self, cnf: object) -> None:
        """Keep the formula."""
        self.cnf = cnf
        super().__init__(f"no assignment of non-zero weight satisfies {cnf}")


class FileFormatError(PcflowError, ValueError):
    """A file is truncated, of another format, or hostile; nothing was loaded."""


def _join(scopes: Sequence[tuple[int, ...]]) -> str:
    return " and ".join(_braces(s) for s in scopes[:4]) + (" and ..." if len(scopes) > 4 else "")


def _braces(scope: tuple[int, ...]) -> str:
    return "{" + ", ".join(map(str, scope[:8])) + (", ...}" if len(scope) > 8 else "}")
