"""`model.circuit` is made when asked, and for nothing else."""

import gc
from weakref import ref

import pytest
import torch

import pcflow as pf
from pcflow.circuit import Circuit

NOTHING = torch.full((1, 4), torch.nan)


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[Circuit]:
    """The circuits that were copied."""
    copied, replace = [], Circuit.replace

    def noted(self: Circuit, *given: object) -> Circuit:
        copied.append(self)
        return replace(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Circuit, "replace", noted)
    return copied


def test_nothing_is_copied_for_what_the_structure_tells(exports: list[Circuit]) -> None:
    model = pf.compile(pf.hmm(4, states=3, inputs=pf.Categorical(3)))
    assert model.num_variables == 4 and model.num_categories == (3,) * 4
    pf.mpe_upper_bound(model, NOTHING)
    pf.map_upper_bound(model, [0, 1], NOTHING)
    pf.entropy_upper_bound(model)
    pf.mutual_information_estimate(model, 0, 1, n=10)
    model.marginals(NOTHING)
    model.sample(2)
    assert not exports


def test_an_export_lives_as_long_as_somebody_holds_it() -> None:
    model = pf.compile(pf.hmm(4, states=3, inputs=pf.Categorical(3)))
    held = model.circuit
    assert model.circuit is held
    with torch.no_grad():
        model.banks[0].add_(torch.randn_like(model.banks[0]))
    assert model.circuit is not held
    gone = ref(model.circuit)
    gc.collect()
    assert gone() is None


def test_determinism_is_proved_once_for_every_pattern_of_zeros(exports: list[Circuit]) -> None:
    table = pf.Parameter(torch.randn(3, 2))
    leaves = [pf.InputLayer(0, pf.Categorical(3), 2, {"logits": table})]
    model = pf.compile(pf.Circuit(pf.SumLayer(leaves, pf.Parameter(torch.zeros(1, 2)))))
    nothing, (logits,) = torch.full((1, 1), torch.nan), [b for b in model.banks if b.shape[1] == 3]

    def exact() -> bool:
        return model.mpe(nothing).exact

    assert not exact() and not exact() and len(exports) == 1
    with torch.no_grad():
        logits.add_(torch.randn_like(logits))
    assert not exact() and len(exports) == 1  # no other zeros
    with torch.no_grad():
        logits[0, 0, 0] = logits[0, 1:, 1] = -torch.inf
    assert exact() and exact() and len(exports) == 2
    with torch.no_grad():
        logits[0, 0, 0] = 0.0
    assert not exact() and len(exports) == 3
