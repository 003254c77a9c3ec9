"""Errors are typed, say what is wrong, and travel: pickled, copied, from one process to another."""

import copy
import inspect
import pickle
from types import ModuleType

import pytest
import torch

import pcflow as pf
from pcflow import errors
from pcflow_diffusion import errors as diffusion_errors

BIT = pf.InputLayer(0, pf.Indicator(1))
PAIR = pf.ProductLayer([BIT, pf.InputLayer.random(1, pf.Gaussian())])
MIXED = pf.SumLayer([PAIR], pf.Parameter(torch.zeros(1, 1)))

WITNESSES: dict[str, tuple[object, ...]] = {  # of every error that takes more than a message
    "AnswerError": ("route", "'billing' has 3 tokens, its slot 2"),
    "FeatureError": (3, 1, float("inf")),
    "LogitsError": (0, 3, "hold nan"),
    "NoMassError": ([3, 5], "sample"),
    "NotAChain": (PAIR,),
    "NotANumber": ([3, 5], "sample"),
    "NotCompatible": (PAIR, MIXED, [(0,), (1,)], [(0, 1)]),
    "NotDecomposable": (PAIR, [(0,), (0, 1)]),
    "NotDeterministic": (MIXED, 0, ((PAIR, 0), (BIT, 0))),
    "NotOmniCompatible": (PAIR, [(0,), (1, 2)]),
    "NotSmooth": (MIXED, [(0,), (1, 2)]),
    "NotStructuredDecomposable": ([PAIR, MIXED], [(0, 1), (1, 2)]),
    "PatternError": ("[a", "unclosed"),
    "PromptError": (0, 3, "a mask, 7"),
    "SettingError": ("alpha", -1, "at least 0"),
    "TokenizerMismatch": (None, "sha256:0a"),
    "TypeMismatch": ("train", [0, 1], "a tensor"),
    "TokenOutOfRange": ("prompt", 9, 5),
    "Unsatisfiable": (pf.CNF([(1,), (-1,)]),),
}


def classes(module: ModuleType) -> list[type[Exception]]:
    """The exceptions that a module defines."""
    members = [value for value in vars(module).values() if inspect.isclass(value)]
    own = [one for one in members if one.__module__ == module.__name__]
    return [one for one in own if not issubclass(one, Warning)]


EVERY = classes(errors) + classes(diffusion_errors)


def made(kind: type[Exception]) -> Exception:
    return kind(*WITNESSES.get(kind.__name__, ("what is wrong",)))


def same(a: object, b: object) -> bool:
    """Equal, or told alike: layers are compared by identity, and a pickled one is another."""
    return a == b or (type(a) is type(b) and repr(a) == repr(b))


@pytest.mark.parametrize("kind", EVERY)
def test_every_error_is_ours_and_one_of_pythons(kind: type[Exception]) -> None:
    assert issubclass(kind, pf.PcflowError)
    assert kind is pf.PcflowError or issubclass(kind, ValueError | TypeError)


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("protocol", (0, 2, pickle.HIGHEST_PROTOCOL))
def test_every_error_can_be_pickled_with_message_and_witness(
    kind: type[Exception], protocol: int
) -> None:
    error = made(kind)
    error.add_note("in a worker")
    for twin in (pickle.loads(pickle.dumps(error, protocol)), copy.copy(error)):
        assert type(twin) is kind
        assert str(twin) == str(error)
        assert vars(twin).keys() == vars(error).keys()
        assert all(same(value, vars(error)[name]) for name, value in vars(twin).items())


def test_a_setting_error_names_the_argument_the_value_and_what_is_wanted() -> None:
    error = pf.SettingError("alpha", -1, "at least 0")
    assert str(error) == "alpha must be at least 0, got -1"
    assert (error.name, error.value, error.wanted) == ("alpha", -1, "at least 0")
