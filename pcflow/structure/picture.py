"""Region graphs as diagrams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pcflow.plot import Diagram, by_depth, counted, scope_text, span

Scope = tuple[int, ...]


def diagram(
    splits: Mapping[Scope, Sequence[Sequence[Scope]]], names: Sequence[str] | None, most: int
) -> Diagram:
    """Regions with their variables, and partitions between them as dots.

    Args:
        splits: of every region, parts before wholes, the parts of each of its partitions.
        names: of the variables.
        most: of boxes for single regions and partitions.
    """
    scopes: list[Scope] = []
    inputs: list[list[int]] = []  # of a partition its parts, of a region its partitions
    home: dict[Scope, int] = {}
    parts: list[int] = []  # how many a partition has, of a region none

    def add(scope: Scope, below: list[int], count: int) -> int:
        scopes.append(scope)
        inputs.append(below)
        parts.append(count)
        return len(scopes) - 1

    for scope, partitions in splits.items():
        below = [add(scope, [home[part] for part in some], len(some)) for some in partitions]
        home[scope] = add(scope, below, 0)

    def alone(n: int) -> tuple[str, ...]:
        return () if parts[n] else (scope_text(scopes[n], names),)

    def together(some: list[int]) -> tuple[str, ...]:
        if parts[some[0]]:
            each = counted(span([parts[n] for n in some]), "part")
            return (f"{counted(len(some), 'partition')} into {each}",)
        each = counted(span([len(scopes[n]) for n in some]), "variable")
        return (f"{counted(len(some), 'region')} of {each}",)

    counts = (len(scopes[-1]), "variable"), (len(home), "region")
    told = [*counts, (len(scopes) - len(home), "partition")]
    title = f"Region graph: {', '.join(counted(number, noun) for number, noun in told)}"
    kinds = ["partition" if count else "region" for count in parts]
    return by_depth(title, kinds, inputs, alone, together, most)
