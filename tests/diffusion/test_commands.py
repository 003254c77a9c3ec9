"""Numbers on command lines: what is wrong is told in a line, before anything is done."""

import argparse
from collections.abc import Callable, Sequence

import pytest

from pcflow_diffusion import checks, demo
from pcflow_diffusion.evaluate.__main__ import EVALUATIONS

NUMBERS = (
    checks.as_count,
    checks.as_not_negative,
    checks.as_positive,
    checks.as_seed,
    checks.as_whole,
)
COMMANDS = {
    name: run for name, run in EVALUATIONS.items() if name != "lm-eval"
}  # which has its own
COMMANDS["demo"] = demo.main
Run = Callable[[Sequence[str]], None]


class Found(Exception):
    """The options of a command."""


@pytest.mark.parametrize("run", COMMANDS.values(), ids=COMMANDS)
def test_every_number_on_a_command_line_is_looked_at(run: Run, monkeypatch, capsys) -> None:
    def stop(parser: argparse.ArgumentParser, *given: object) -> None:
        raise Found(parser)

    with monkeypatch.context() as patch, pytest.raises(Found) as found:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        run([])
    options = found.value.args[0]._actions
    numbers = [option for option in options if option.type in NUMBERS]
    assert numbers and not [option for option in options if option.type in (int, float)]
    for option in numbers:
        for word in {"nan", "1.5.", "-1", "0"} if option.type is checks.as_count else {"nan", ""}:
            with pytest.raises(SystemExit) as stopped:
                run([f"{option.option_strings[0]}={word}"])
            assert stopped.value.code == 2
            assert f"argument {option.option_strings[0]}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "right", "wrong"),
    [
        (checks.as_count, ["1", "7"], ["0", "-1", "1.5", "nan", "many"]),
        (checks.as_whole, ["0", "7"], ["-1", "1.5", "nan", ""]),
        (checks.as_seed, ["0", "-7"], [str(1 << 63), "1.5", "inf"]),
        (checks.as_not_negative, ["0", "0.5"], ["-1", "nan", "inf", "-inf", "some"]),
        (checks.as_positive, ["1e-9", "3"], ["0", "-1", "nan", "inf", "some"]),
    ],
)
def test_numbers_are_what_they_must_be(number, right, wrong) -> None:
    assert [number(word) for word in right] == [float(word) for word in right]
    for word in wrong:
        with pytest.raises((ValueError, argparse.ArgumentTypeError)):
            number(word)


@pytest.mark.parametrize("more", ["constraints --steps 21", "few-step --steps 33"])
def test_more_steps_than_a_block_has_tokens_are_refused(more, capsys) -> None:
    name, *words = more.split()
    with pytest.raises(SystemExit):
        EVALUATIONS[name](words)
    assert "--steps must lie in 1 to" in capsys.readouterr().err
