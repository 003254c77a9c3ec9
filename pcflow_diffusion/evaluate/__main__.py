"""Evaluations from the command line: `python -m pcflow_diffusion.evaluate NAME --help`."""

import sys
from collections.abc import Callable, Sequence

from pcflow_diffusion.checks import did_you_mean
from pcflow_diffusion.evaluate import (
    constraints_by_task,
    cost,
    decisions,
    exact_world,
    few_step_of_text,
    gap_of_text,
    sudoku_by_steps,
)
from pcflow_diffusion.models.progress import interruptible, quietly


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


EVALUATIONS: dict[str, tuple[Callable[[Sequence[str]], None], str]] = {
    "gap": (gap_of_text.main, "nats per masked token by coupling and share masked, on a text"),
    "few-step": (few_step_of_text.main, "text in few steps, as a judge reads it"),
    "cost": (cost.main, "what a circuit costs beside a step of the backbone, and the machine"),
    "constraints": (constraints_by_task.main, "text that has to obey a rule"),
    "decisions": (decisions.main, "answers of several tokens: which words fit a hole"),
    "exact-world": (exact_world.main, "how far draws are from a truth that is known"),
    "sudoku": (sudoku_by_steps.main, "puzzles solved, by decoder and number of steps"),
    "lm-eval": (lm_eval, "the tasks of lm-eval, as its model pcflow"),
}
USAGE = "python -m pcflow_diffusion.evaluate NAME [--quiet] [options of it, or --help]"


def usage() -> str:
    """What there is, a line each."""
    names = "\n".join(f"  {name:<12} {told}" for name, (_, told) in EVALUATIONS.items())
    return f"usage: {USAGE}\n\n{names}"


def main(arguments: Sequence[str]) -> None:
    """Run the evaluation that comes first.

    Raises:
        SystemExit: if there is none of that name; with 130 if it is interrupted.
    """
    name, *options = arguments or [""]
    if name in ("-h", "--help"):
        print(usage())
        return
    if name not in EVALUATIONS:
        wrong = f"no evaluation is called {name!r}{did_you_mean(name, EVALUATIONS)}\n\n"
        raise SystemExit(f"{wrong if name else ''}{usage()}")
    with interruptible(), quietly("--quiet" in options):
        EVALUATIONS[name][0](options)


if __name__ == "__main__":
    main(sys.argv[1:])
