"""Numbers on command lines: what is wrong is told in a line, before anything is done."""

import argparse
from collections.abc import Callable, Sequence

import pytest

from pcflow_diffusion import checks, demo
from pcflow_diffusion.evaluate.__main__ import EVALUATIONS
from pcflow_diffusion.evaluate.__main__ import main as evaluate
from pcflow_diffusion.models.progress import bar, quietly, say, shown

NUMBERS = (
    checks.as_count,
    checks.as_not_negative,
    checks.as_positive,
    checks.as_seed,
    checks.as_whole,
)
COMMANDS = {
    name: run for name, (run, _) in EVALUATIONS.items() if name != "lm-eval"
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
        EVALUATIONS[name][0](words)
    assert "--steps must lie in 1 to" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_who_asks_what_there_is_gets_every_name_and_what_it_does(word, capsys) -> None:
    evaluate([word])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == list(EVALUATIONS)
    assert all(len(line.split()) > 4 for line in lines[2:])


@pytest.mark.parametrize(
    ("words", "told"),
    [([], "usage: "), (["gapp"], "no evaluation is called 'gapp'; did you mean gap?")],
)
def test_a_name_that_is_none_is_told_what_was_meant(words, told) -> None:
    with pytest.raises(SystemExit) as stopped:
        evaluate(words)
    assert str(stopped.value).startswith(told)  # which Python prints, with status 1


@pytest.mark.parametrize("run", COMMANDS.values(), ids=COMMANDS)
def test_a_misspelt_option_is_told_what_was_meant(run: Run, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(["--quite"])
    assert stopped.value.code == 2
    assert "did you mean --quiet?" in capsys.readouterr().err


def test_where_all_is_quiet_there_is_no_news_unless_somebody_asks(capsys) -> None:
    with quietly():
        say("news")
        assert shown() is False and shown(True) is True
        assert list(bar([1, 2])) == [1, 2] and not capsys.readouterr().err
        with quietly(False):
            say("news")  # of what is called, too
        assert list(bar([1, 2], progress=True)) == [1, 2]
    told = capsys.readouterr()
    assert not told.out and "2/2" in told.err
    with quietly(False):
        say("news")
    assert capsys.readouterr().out == "\nnews\n" and shown() is None


def test_a_quiet_command_tells_what_it_calls(monkeypatch) -> None:
    heard = []
    monkeypatch.setitem(EVALUATIONS, "gap", (lambda _: heard.append(shown()), ""))
    evaluate(["gap"])
    evaluate(["gap", "--quiet"])
    assert heard == [None, False]


def test_a_command_that_is_interrupted_says_so_in_a_line(monkeypatch, capsys) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(EVALUATIONS, "gap", (stop, ""))
    monkeypatch.setattr(demo, "run", stop)
    for command in (lambda: evaluate(["gap"]), lambda: demo.main([])):
        with pytest.raises(SystemExit) as stopped:
            command()
        assert stopped.value.code == 130 and capsys.readouterr().err == "interrupted\n"
