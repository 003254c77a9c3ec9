"""Evaluations from the command line: `python -m pcflow_diffusion.evaluate NAME --help`."""

import sys
from collections.abc import Callable, Sequence

from pcflow_diffusion.evaluate import cost, exact_world, gap_of_text

EVALUATIONS: dict[str, Callable[[Sequence[str]], None]] = {
    "cost": cost.main,
    "exact-world": exact_world.main,
    "gap": gap_of_text.main,
}


def main(arguments: Sequence[str]) -> None:
    """Run the evaluation that comes first.

    Raises:
        SystemExit: if there is none of that name.
    """
    name = arguments[0] if arguments else ""
    if name not in EVALUATIONS:
        names = "|".join(EVALUATIONS)
        raise SystemExit(f"usage: python -m pcflow_diffusion.evaluate {{{names}}} [--help]")
    EVALUATIONS[name](arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
