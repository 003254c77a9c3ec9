"""Files whose probabilities are in bfloat16: other numbers, but a distribution like any other."""

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import of_fifty

import pcflow as pf
from pcflow.io.rounding import softmax_axes
from pcflow.testing import circuits, enumerate_states, mixed_families

ROUNDING = 2.0**-8
"""Of a rounded probability 2^-9, and of what normalises it as much again."""


def compiled(circuit: pf.Circuit) -> pf.CompiledCircuit:
    return pf.compile(circuit, dtype=torch.float32)


def there_and_back(model: pf.CompiledCircuit) -> pf.CompiledCircuit:
    with tempfile.TemporaryDirectory() as folder:
        pf.save(model, f"{folder}/file", dtype=torch.bfloat16)
        return pf.load(f"{folder}/file")


def by_hand(circuit: pf.Circuit) -> pf.Circuit:
    """Weights to eight bits, one by one."""
    axes = softmax_axes(circuit)
    return circuit.replace(
        {p: p.value.softmax(axis).bfloat16().float().log() for p, axis in axes.items()}
    )


@given(circuits(max_variables=4, families=mixed_families()), st.integers(0, 999))
@settings(max_examples=of_fifty(40))
def test_it_answers_as_a_model_of_rounded_weights(circuit: pf.Circuit, seed: int) -> None:
    model = compiled(circuit)
    x = model.sample(20, generator=torch.Generator().manual_seed(seed))
    x = x.float().masked_fill(torch.rand(x.shape) < 0.3, torch.nan)
    found, wanted = there_and_back(model), compiled(by_hand(model.circuit))
    for mine, its in zip(found.parameters(), wanted.parameters(), strict=True):
        assert mine.dtype == torch.float32 and mine.requires_grad
        assert torch.equal(mine, its)
    assert torch.equal(found.log_prob(x), wanted.log_prob(x))
    most = len(circuit.layers) * ROUNDING + 1e-4
    assert (found.log_prob(x) - model.log_prob(x)).abs().max().item() < most


@given(circuits(max_variables=4))
@settings(max_examples=of_fifty(20))
def test_it_is_a_distribution(circuit: pf.Circuit) -> None:
    """As exactly as in float32."""
    total = there_and_back(compiled(circuit)).log_prob(enumerate_states(circuit)).double()
    assert abs(total.logsumexp(0).item()) < 1e-6


@pytest.mark.parametrize("far", [0.0, 50.0, 500.0])
def test_only_what_was_impossible_is(far: float) -> None:
    logits = torch.tensor([[0.0, -far, -far - 1, -torch.inf]]).t()
    layer = pf.InputLayer(0, pf.Categorical(4), 1, {"logits": pf.Parameter(logits)})
    found = there_and_back(compiled(pf.Circuit(layer)))
    x = torch.arange(4).unsqueeze(-1)
    assert (found.log_prob(x) > -torch.inf).tolist() == [True, True, True, False]


def test_a_file_is_half_as_large() -> None:
    model = compiled(pf.hmm(4, 16, pf.Categorical(5_000)))
    with tempfile.TemporaryDirectory() as folder:
        pf.save(model, f"{folder}/whole")
        pf.save(model, f"{folder}/half", dtype=torch.bfloat16)
        whole, half = (Path(folder, name).stat().st_size for name in ("whole", "half"))
    assert half < 0.51 * whole


def test_a_head_is_too() -> None:
    from pcflow_diffusion import CircuitHead

    head = CircuitHead(pf.compile(pf.hmm(3, 4, pf.Categorical(500))), 500)
    with tempfile.TemporaryDirectory() as folder:
        head.save(f"{folder}/whole")
        head.save(f"{folder}/half", dtype=torch.bfloat16)
        whole, half = (Path(folder, name).stat().st_size for name in ("whole", "half"))
        found = CircuitHead.load(f"{folder}/half").model
    assert half < 0.6 * whole
    for mine, its in zip(found.parameters(), there_and_back(head.model).parameters(), strict=True):
        assert torch.equal(mine, its)


@pytest.mark.parametrize("bad", [-0.25, torch.nan, torch.inf, 0.0])
def test_numbers_that_are_no_probabilities_are_refused(bad: float, tmp_path: Path) -> None:
    pf.save(compiled(pf.hmm(2, 2, pf.Categorical(3))), tmp_path / "file", dtype=torch.bfloat16)
    file = pf.Container(tmp_path / "file")
    tensors = file.tensors()
    tensors["3x2 probabilities"].fill_(bad)
    pf.Container.write(tmp_path / "file", tensors, file.texts)
    with pytest.raises(pf.FileFormatError):
        pf.load(tmp_path / "file")


def test_other_precisions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(pf.SettingError, match="None or bfloat16"):
        pf.save(compiled(pf.hmm(2, 2, pf.Bernoulli())), tmp_path / "file", dtype=torch.float16)
    assert not list(tmp_path.iterdir())
