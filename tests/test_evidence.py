"""Bad evidence is refused at the door, by argument, row, variable and value."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pcflow as pf

NAN, INF = torch.nan, torch.inf


@pytest.fixture(scope="module")
def model() -> pf.CompiledCircuit:
    columns = [pf.Categorical(3), pf.Bernoulli(), pf.Gaussian()]
    return pf.compile(pf.build_circuit(pf.structure.chain(3), columns, units=2))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[0, 1, 0.5], [3, 1, 0.5]], "values: row 1, variable 0 is 3.0, but must be .* 0..2"),
        ([[0, -1, 0.5]], "values: row 0, variable 1 is -1.0, but must be .* 0..1"),
        ([[0.5, 1, 0.5]], "values: row 0, variable 0 is 0.5, but must be an integer"),
        ([[0, 1, INF]], "values: row 0, variable 2 is inf, but must be a finite number"),
        ([[0, 1]], r"values must be \[B, 3\] for 3 variables, got \(1, 2\)"),
        ([0.0, 1.0, 2.0], r"values must be \[B, 3\] for 3 variables, got \(3,\)"),
    ],
)
def test_bad_values(model: pf.CompiledCircuit, values: list[float], message: str) -> None:
    with pytest.raises(pf.EvidenceError, match=message):
        model.log_prob(torch.tensor(values))


def _evidence(
    model: pf.CompiledCircuit,
    rows: int = 2,
    missing: torch.Tensor | None = None,
    potentials: torch.Tensor | None = None,
) -> torch.Tensor:
    values = torch.zeros(rows, 3)
    return model.log_prob(pf.Evidence(values, missing, potentials))


def test_bad_masks(model: pf.CompiledCircuit) -> None:
    with pytest.raises(pf.EvidenceError, match=r"missing must be bool \[2, 3\], got torch.int64"):
        _evidence(model, missing=torch.ones(2, 3, dtype=torch.long))
    with pytest.raises(pf.EvidenceError, match=r"missing must be bool \[2, 3\].*\(2, 4\)"):
        _evidence(model, missing=torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(pf.EvidenceError, match="one common number of rows"):
        _evidence(model, missing=torch.ones(1, 3, dtype=torch.bool))


def test_bad_potentials(model: pf.CompiledCircuit) -> None:
    good = torch.zeros(2, 3, 3)
    for bad, name in ((NAN, "NaN"), (INF, "inf")):
        potentials = good.clone()
        potentials[1, 0, 2] = bad
        with pytest.raises(pf.EvidenceError, match=f"log_potentials: row 1, variable 0 .*{name}"):
            _evidence(model, potentials=potentials)
    with pytest.raises(pf.EvidenceError, match=r"log_potentials must be \(2, 3, 3\)"):
        _evidence(model, potentials=torch.zeros(2, 3, 2))
    with pytest.raises(pf.EvidenceError, match="floating point"):
        _evidence(model, potentials=torch.zeros(2, 3, 3, dtype=torch.long))
    shaped = good.clone()
    shaped[0, 2, 1] = 1.0
    all_missing = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(pf.EvidenceError, match=r"row 0, variable 2 .* no finite range"):
        _evidence(model, missing=all_missing, potentials=shaped)


def test_no_evidence_and_no_tensor(model: pf.CompiledCircuit) -> None:
    with pytest.raises(pf.EvidenceError, match="one common number of rows"):
        model.log_prob(pf.Evidence())
    with pytest.raises(pf.EvidenceError, match="must be a tensor or an Evidence, got list"):
        model.log_prob([[0, 1, 2]])  # type: ignore[arg-type]
    with pytest.raises(pf.EvidenceError, match="real"):
        model.log_prob(torch.zeros(1, 3, dtype=torch.complex64))


def test_nan_mask_and_absence_mean_missing_alike(model: pf.CompiledCircuit) -> None:
    nan = model.log_prob(torch.tensor([[1.0, NAN, 0.3]]))
    mask = torch.tensor([[False, True, False]])
    masked = model.log_prob(pf.Evidence(torch.tensor([[1.0, 0.0, 0.3]]), mask))
    both = model.log_prob(pf.Evidence(torch.tensor([[1.0, NAN, 0.3]]), mask))
    assert nan == masked == both
    absent = model.log_prob(pf.Evidence(missing=torch.zeros(1, 3, dtype=torch.bool)))
    assert absent.item() == pytest.approx(0.0, abs=1e-6)


def test_a_mask_adds_to_the_nans(model: pf.CompiledCircuit) -> None:
    mask = torch.tensor([[True, False, False]])
    found = model.log_prob(pf.Evidence(torch.tensor([[1.0, NAN, 0.3]]), mask))
    assert torch.equal(found, model.log_prob(torch.tensor([[NAN, NAN, 0.3]])))


def test_masked_values_are_not_looked_at(model: pf.CompiledCircuit) -> None:
    mask = torch.tensor([[True, False, False]])
    wild = model.log_prob(pf.Evidence(torch.tensor([[99.0, 1.0, 0.3]]), mask))
    tame = model.log_prob(pf.Evidence(torch.tensor([[0.0, 1.0, 0.3]]), mask))
    assert torch.equal(wild, tame)


def test_whole_numbers_of_any_type_are_values() -> None:
    model = pf.compile(pf.hmm(3, states=2, inputs=pf.Bernoulli()))
    x = torch.tensor([[1, 0, 1]])
    wanted = model.log_prob(x)
    for dtype in (torch.bool, torch.uint8, torch.int32, torch.float64, torch.float16):
        assert torch.equal(model.log_prob(x.to(dtype)), wanted)


def test_potentials_of_observed_variables_are_not_read() -> None:
    model = pf.compile(pf.hmm(3, states=2, inputs=pf.Bernoulli()))
    potentials = torch.randn(1, 3, 2)
    x = torch.tensor([[1, 0, 1]])
    assert torch.equal(model.log_prob(pf.Evidence(x, log_potentials=potentials)), model.log_prob(x))


def test_entries_past_a_variable_s_own_categories_are_not_read(model: pf.CompiledCircuit) -> None:
    missing = torch.tensor([[False, True, False]])
    one, two = torch.zeros(1, 3, 3), torch.zeros(1, 3, 3)
    two[0, 1, 2] = 5.0  # variable 1 has two categories only
    values = torch.zeros(1, 3)
    found = [model.log_prob(pf.Evidence(values, missing, p)) for p in (one, two)]
    assert torch.equal(*found)


@given(st.integers(1, 700), st.integers(1, 9), st.integers(1, 40), st.integers(0, 2**31 - 1))
def test_the_largest_potentials_are_listed_by_category(
    size: int, k: int, ties: int, seed: int
) -> None:
    """Sizes on both sides of where they are looked for in groups; some equal, some impossible."""
    generator = torch.Generator().manual_seed(seed)
    soft = torch.randint(ties, (2, 3, size), generator=generator).double()
    soft = soft.masked_fill(torch.rand(soft.shape, generator=generator) < 0.2, -torch.inf)
    found = pf.Evidence(log_potentials=soft.requires_grad_()).top_k(k)
    assert found.log_potentials is not None and found.categories is not None
    falling = found.log_potentials.sort(dim=-1, descending=True).values
    assert torch.equal(falling, soft.topk(min(k, size), dim=-1).values)
    assert torch.equal(found.log_potentials, soft.gather(-1, found.categories))
    assert (found.categories[..., 1:] > found.categories[..., :-1]).all()
    (grad,) = torch.autograd.grad(found.log_potentials.sum(), soft)
    assert torch.equal(grad, torch.zeros_like(soft).scatter(-1, found.categories, 1.0))
