"""Evaluations from the command line: `python -m pcflow_diffusion.evaluate NAME --help`."""

import sys
from collections.abc import Callable, Sequence

from pcflow_diffusion.evaluate import (
    constraints_by_task,
    cost,
    decisions,
    exact_world,
    few_step_of_text,
    gap_of_text,
    sudoku_by_steps,
)


def lm_eval(arguments: Sequence[str]) -> None:
    """The command of lm-eval, which knows the model "pcflow".

    Raises:
        SystemExit: if lm-eval is not installed.
    """
    try:
        from pcflow_diffusion.evaluate import harness
    except ImportError as error:
        raise SystemExit(f"pip install 'pcflow[lm-eval]' ({error})") from error
    harness.main(arguments)


EVALUATIONS: dict[str, Callable[[Sequence[str]], None]] = {
    "constraints": constraints_by_task.main,
    "cost": cost.main,
    "decisions": decisions.main,
    "exact-world": exact_world.main,
    "few-step": few_step_of_text.main,
    "gap": gap_of_text.main,
    "lm-eval": lm_eval,
    "sudoku": sudoku_by_steps.main,
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
