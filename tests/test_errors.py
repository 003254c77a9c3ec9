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


SLIPS = [  # what a newcomer writes, and what to write instead
    (lambda model, x: pf.fit(model, x, "em"), r"learner .* EM\(\), .* got str"),
    (lambda model, x: pf.fit(model, x, pf.EM), r"learner .* EM\(\), .* got the class EM"),
    (lambda model, x: pf.fit(model, x, torch.optim.Adam), r"Gradient\(torch.optim.Adam\)"),
    (lambda model, x: pf.fit(model.circuit, x), r"of a circuit: pf.compile\(circuit\)"),
    (lambda model, x: model.circuit.log_prob(x), r"pf.compile\(circuit\) answers queries"),
    (lambda _, __: pf.hmm(4, 2, pf.Categorical), r"such as Categorical\(3\), .* the class Cat"),
    (lambda _, __: pf.build_circuit(pf.structure.chain(2), "ca"), r"such as Categorical\(3\)"),
    (
        lambda model, _: pf.Gradient(torch.optim.SGD(model.parameters())),
        "torch.optim.Adam, got SGD",
    ),
]


@pytest.mark.parametrize(("slip", "told"), SLIPS)
def test_a_slip_is_told_what_to_write(slip, told) -> None:
    model = pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(3)))
    with pytest.raises((pf.TypeMismatch, AttributeError), match=told):
        slip(model, torch.randint(3, (5, 4)))


def test_what_is_no_query_is_missed_in_a_circuit_as_ever() -> None:
    circuit = pf.hmm(2, states=2, inputs=pf.Categorical(3))
    assert not hasattr(circuit, "_repr_html_")
    assert copy.copy(circuit).num_variables == pickle.loads(pickle.dumps(circuit)).num_variables
    assert repr(pf.Gradient()) == "Gradient(adam, decay=False)"
