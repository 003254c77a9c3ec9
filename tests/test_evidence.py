"""Bad evidence is refused at the door, by argument, row, variable and value."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from device import DEVICE
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import pcflow as pf

NAN, INF = torch.nan, torch.inf


@pytest.fixture(scope="module")
def model() -> pf.CompiledCircuit:
    columns = [pf.Categorical(3), pf.Bernoulli(), pf.Gaussian()]
    return pf.compile(pf.build_circuit(pf.structure.chain(3), columns, units=2), DEVICE)


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


def test_no_evidence_and_no_real_numbers(model: pf.CompiledCircuit) -> None:
    with pytest.raises(pf.EvidenceError, match="one common number of rows"):
        model.log_prob(pf.Evidence())
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


@pytest.mark.parametrize("sizes", [(2, 2, 2), (3, 2, 4)])
def test_whole_numbers_of_any_type_are_values(sizes: tuple[int, ...]) -> None:
    columns = [pf.Categorical(size) for size in sizes]
    model = pf.compile(pf.build_circuit(pf.structure.chain(3), columns, units=2), DEVICE)
    x = torch.tensor([[1, 0, 1]])
    wanted = model.log_prob(x)
    for dtype in (torch.bool, torch.uint8, torch.int32, torch.float64, torch.float16):
        assert torch.equal(model.log_prob(x.to(dtype)), wanted)


def test_potentials_of_observed_variables_are_not_read() -> None:
    model = pf.compile(pf.hmm(3, states=2, inputs=pf.Bernoulli()), DEVICE)
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
    soft = soft.to(DEVICE).requires_grad_()
    found = pf.Evidence(log_potentials=soft).top_k(k)
    assert found.log_potentials is not None and found.categories is not None
    falling = found.log_potentials.sort(dim=-1, descending=True).values
    assert torch.equal(falling, soft.topk(min(k, size), dim=-1).values)
    assert torch.equal(found.log_potentials, soft.gather(-1, found.categories))
    assert (found.categories[..., 1:] > found.categories[..., :-1]).all()
    (grad,) = torch.autograd.grad(found.log_potentials.sum(), soft)
    assert torch.equal(grad, torch.zeros_like(soft).scatter(-1, found.categories, 1.0))


INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
EIGHT_BITS = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)

ROWS = torch.tensor([[0, 1, 4], [2, 3, 1]])
SAME: dict[str, Callable[[Tensor], Any]] = {  # the same numbers in other clothes
    **{str(dtype): lambda x, d=dtype: x.to(d) for dtype in (*INTEGERS, *UNSIGNED, *FLOATS)},
    **{str(dtype): lambda x, d=dtype: x.float().to(d) for dtype in EIGHT_BITS},
    **{f"numpy {k}": lambda x, k=k: x.numpy().astype(k) for k in ("u2", "u4", "u8", ">i4", ">f8")},
    "lists": lambda x: x.tolist(),
    "tuples of arrays": lambda x: tuple(x.numpy()),
    "not contiguous": lambda x: x.t().contiguous().t(),
    "a view turned round": lambda x: x.numpy()[::-1].copy()[::-1],
    "read only": lambda x: np.frombuffer(x.numpy().tobytes(), x.numpy().dtype).reshape(x.shape),
}
WRONG: dict[str, Callable[[Tensor], Any]] = {
    "complex": lambda x: x.to(torch.complex64),
    "sparse": lambda x: x.to_sparse(),
    "compressed": lambda x: x.float().to_sparse_csr(),
    "quantised": lambda x: torch.quantize_per_tensor(x.float(), 1.0, 0, torch.quint8),
    "nested": lambda x: torch.nested.nested_tensor(list(x)),
    "without data": lambda x: x.to("meta"),
    "half bytes": lambda x: x.to(torch.uint8).view(torch.float4_e2m1fn_x2),
    "objects": lambda x: x.numpy().astype(str).astype(object),
    "strings": lambda x: [["a", "b", "c"]],
    "dates": lambda x: x.numpy().astype("datetime64[s]"),
    "ragged": lambda x: [[0, 1, 2], [0]],
    "masked": lambda x: np.ma.masked_array(x.numpy(), x.numpy() == 4),
    "long doubles": lambda x: x.numpy().astype("f16"),
    "a dictionary": lambda x: {"x": 1},
    "a number": lambda x: 3,
    "too large": lambda x: (x - 9).to(torch.uint64),
}


def _model(dtype: torch.dtype = torch.float32) -> pf.CompiledCircuit:
    chain = pf.hmm(
        3, states=2, inputs=pf.Categorical(5), generator=torch.Generator().manual_seed(3)
    )
    return pf.compile(chain, DEVICE, dtype)


@pytest.mark.parametrize("kind", SAME)
def test_the_same_numbers_say_the_same(kind: str) -> None:
    model = _model()
    assert torch.equal(model.log_prob(SAME[kind](ROWS)), model.log_prob(ROWS))


def test_masks_potentials_and_categories_may_be_arrays_or_lists() -> None:
    model, generator = _model(), torch.Generator().manual_seed(0)
    missing = torch.tensor([[True, False, True], [False, False, True]])
    soft = torch.randn(2, 3, 2, generator=generator)
    listed = torch.tensor([[0, 4]]).expand(2, 3, -1)
    wanted = model.log_prob(pf.Evidence(ROWS, missing, soft, listed))
    arrays = [t.numpy() for t in (ROWS, missing, soft, listed)]
    assert torch.equal(model.log_prob(pf.Evidence(*arrays)), wanted)
    lists = [t.tolist() for t in (ROWS, missing, soft, listed)]
    torch.testing.assert_close(model.log_prob(pf.Evidence(*lists)), wanted)
    eight = soft.to(torch.float8_e5m2)
    assert torch.equal(
        model.log_prob(pf.Evidence(ROWS, missing, eight, listed)),
        model.log_prob(pf.Evidence(ROWS, missing, eight.float(), listed)),
    )
    some = model.marginals(ROWS, listed)
    assert torch.equal(model.marginals(ROWS, listed.numpy().astype("u2")), some)
    with pytest.raises(pf.EvidenceError, match="categories must be real numbers"):
        model.marginals(ROWS, listed.to(torch.complex64))


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("name", ["values", "missing", "log_potentials", "categories"])
def test_what_is_no_array_of_real_numbers_is_refused_by_name(kind: str, name: str) -> None:
    model = _model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of kinds of tensors that it gives up or begins
        given = WRONG[kind](ROWS)
        with pytest.raises(pf.EvidenceError, match=name):
            model.log_prob(pf.Evidence(**{"values": ROWS, name: given}))


Ask = Callable[[pf.CompiledCircuit, Tensor], object]
PLACED: dict[str, tuple[Ask, Tensor, list[Any]]] = {  # who asks, what is right, what is not
    "values": (lambda m, t: m.log_prob(t), torch.zeros(4, 3), [-1.0, 5.0, 0.5, INF]),
    "values, whole": (lambda m, t: m.log_prob(t), torch.zeros(4, 3).long(), [-1, 5]),
    "log_potentials": (
        lambda m, t: m.log_prob(pf.Evidence(log_potentials=t)),
        torch.zeros(4, 3, 5),
        [[0, 0, NAN, 0, 0], [INF, 0, 0, 0, 0], [-INF, -INF, -INF, -INF, INF]],
    ),
    "categories, listed": (
        lambda m, t: m.log_prob(pf.Evidence(log_potentials=torch.zeros(4, 3, 3), categories=t)),
        torch.tensor([4, 0, 2]).expand(4, 3, -1),
        [[-1, 0, 2], [0, 5, 2], [2, 0, 2]],
    ),
    "categories, chosen": (
        lambda m, t: m.marginals(torch.zeros(4, 3), t),
        torch.tensor([4, 0, 0]).expand(4, 3, -1),
        [[-1, 0, 0], [0, 0, 5]],
    ),
}


@pytest.mark.parametrize("kind", PLACED)
@given(st.data())
def test_the_first_place_that_is_wrong_is_named(kind: str, data: st.DataObject) -> None:
    ask, given, bad = PLACED[kind]
    model, given = _model(), given.clone()
    ask(model, given)
    wrong = data.draw(st.sets(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1))
    for place in wrong:
        given[place] = torch.tensor(data.draw(st.sampled_from(bad)))
    name, (row, variable) = kind.partition(",")[0], min(wrong)
    with pytest.raises(pf.EvidenceError, match=f"^{name}: row {row}, variable {variable} "):
        ask(model, given)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 0), (2, 4, 1), (1, 3, 1), (2, 3, 1, 1)])
def test_categories_are_listed_for_every_row_and_variable(shape: tuple[int, ...]) -> None:
    listed, soft = torch.zeros(shape, dtype=torch.long), torch.zeros(2, 3, 1)
    with pytest.raises(pf.EvidenceError, match=r"categories must be \[2, 3, k\], got"):
        _model().log_prob(pf.Evidence(ROWS, log_potentials=soft, categories=listed))


def test_potentials_are_as_many_as_categories() -> None:
    soft = torch.zeros(2, 3, 5)
    with pytest.raises(pf.EvidenceError, match=r"must be \(2, 3, 1\), got \(2, 3, 5\)"):
        listed = torch.zeros(2, 3, 1).long()
        _model().log_prob(pf.Evidence(ROWS, log_potentials=soft, categories=listed))
    reals = pf.compile(pf.hmm(3, states=2, inputs=pf.Gaussian()))  # whose variables have none
    with pytest.raises(pf.EvidenceError, match=r"must be \(2, 3, 0\), got \(2, 3, 5\)"):
        reals.log_prob(pf.Evidence(ROWS, log_potentials=soft))


def test_the_largest_are_chosen_among_some() -> None:
    for about, k in ((pf.Evidence(ROWS), 2), (pf.Evidence(log_potentials=torch.zeros(2, 3, 5)), 0)):
        with pytest.raises(pf.EvidenceError, match="needs log_potentials, and k of at least 1"):
            about.top_k(k)


@pytest.mark.parametrize("given", FLOATS)
@pytest.mark.parametrize("own", [torch.float32, torch.float64])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_potentials_are_looked_at_as_the_model_sees_them(
    given: torch.dtype, own: torch.dtype, sign: float
) -> None:
    """The largest number of a type is fine where it still is one, and refused where it is not."""
    model, soft = _model(own), torch.zeros(2, 3, 5, dtype=given)
    soft[1, 2, 3] = sign * torch.finfo(given).max
    about = pf.Evidence(log_potentials=soft)
    if soft.to(own).isfinite().all():
        assert model.log_prob(about).isfinite().all()
        return
    message = (
        r"log_potentials: row 1, variable 2 has -?1.79\S+e\+308, which is -?inf in torch.float32"
    )
    for query in (model.log_prob, model.marginals, model.mpe, lambda e: model.sample(1, e)):
        with pytest.raises(pf.EvidenceError, match=message):
            query(about)
    with pytest.raises(pf.EvidenceError, match=message):
        listed = torch.arange(5).expand(2, 3, -1)
        model.log_prob(pf.Evidence(log_potentials=soft, categories=listed))


def test_values_are_looked_at_as_the_model_sees_them() -> None:
    model = pf.compile(pf.hmm(3, states=2, inputs=pf.Gaussian()), DEVICE, torch.float32)
    x = torch.tensor([[0.0, 1e300, 0.0]], dtype=torch.float64)
    message = r"values: row 0, variable 1 is 1e\+300, which is inf in torch.float32, but must be"
    with pytest.raises(pf.EvidenceError, match=message):
        model.log_prob(x)


MODELS = {
    "chain": lambda: pf.hmm(3, states=2, inputs=pf.Categorical(4)),
    "single units": lambda: pf.build_circuit(
        pf.structure.fully_factorized(3), inputs=pf.Categorical(4), units=1
    ),
    "reals": lambda: pf.hmm(3, states=2, inputs=pf.Gaussian()),
    "single reals": lambda: pf.build_circuit(
        pf.structure.fully_factorized(3), inputs=pf.Gaussian(), units=1
    ),
}


NOTHING = torch.full((4, 3), NAN)
DRAWS: dict[str, Callable[[pf.CompiledCircuit], object]] = {
    "sample": lambda model: model.sample(100),
    "sample given": lambda model: model.sample(100, NOTHING),
}
SAYS: dict[str, Callable[[pf.CompiledCircuit], object]] = {
    "marginals": lambda model: model.marginals(NOTHING),
    "mean": lambda model: model.mean(NOTHING),
    "draws with marginals": lambda model: model.sample_with_marginals(1, NOTHING),
    "project": lambda model: model.project(NOTHING, torch.zeros(4, 3, 4)),
}


ASKED = [  # of reals a mean does not look at all parameters, and the others need a finite range
    (kind, query) for kind in MODELS for query in (DRAWS if "reals" in kind else DRAWS | SAYS)
]


@pytest.mark.parametrize(("kind", "query"), ASKED)
def test_a_model_that_is_not_a_number_says_nothing(kind: str, query: str) -> None:
    circuit = MODELS[kind]()
    for bank in range(len(pf.compile(circuit).banks)):
        model = pf.compile(circuit, DEVICE)
        with torch.no_grad():
            model.banks[bank].view(-1)[0] = NAN
        with pytest.raises(pf.NotANumber) as error:
            (DRAWS | SAYS)[query](model)
        rows, every = set(error.value.rows), set(range(1 if query == "sample" else 4))
        assert rows == every if "single" in kind else rows and rows <= every


@pytest.mark.parametrize("own", ["cpu", DEVICE.type])
@pytest.mark.parametrize("given", ["cpu", DEVICE.type])
def test_evidence_may_be_on_any_device(given: str, own: str) -> None:
    soft, listed = torch.randn(2, 3, 5), torch.arange(5).expand(2, 3, -1)
    parts = (ROWS.float(), ROWS == 1, soft, listed)
    here, there = pf.Evidence(*parts), pf.Evidence(*(part.to(given) for part in parts))
    one, other = _model(), _model().to(own)
    assert other.log_prob(there).device.type == own
    for query in (
        lambda model, about, _: model.log_prob(about),
        lambda model, about, _: model.mean(about),
        lambda model, about, _: model.mpe(about).values,
        lambda model, about, of: model.marginals(about, of),
        lambda model, about, of: model.project(about, soft.to(of.device)).log_potentials,
    ):
        found, wanted = query(other, there, listed.to(given)), query(one, here, listed)
        torch.testing.assert_close(found.cpu(), wanted.cpu())


def test_evidence_is_checked_once() -> None:
    model, soft = _model(), torch.randn(2, 3, 5)
    known = model.evidence(pf.Evidence(ROWS.double().masked_fill(ROWS == 1, NAN), None, soft))
    assert isinstance(known, pf.CheckedEvidence) and known.potentials is not None
    assert torch.equal(known.missing.cpu(), ROWS == 1)
    assert torch.equal(known.values.cpu(), ROWS * (ROWS != 1))
    assert model.evidence(known) is known
    copy = pf.compile(model.circuit, DEVICE)
    assert copy.evidence(known) is known  # another circuit, about the same variables
    assert torch.equal(copy.log_prob(known), model.log_prob(known))
    double = pf.compile(model.circuit, DEVICE, torch.float64)
    assert double.evidence(known) is not known
    assert double.log_prob(known).dtype == torch.float64
    fewer = pf.compile(pf.hmm(3, states=2, inputs=pf.Categorical(3)), DEVICE)
    with pytest.raises(pf.EvidenceError, match=r"must be \(2, 3, 3\), got \(2, 3, 5\)"):
        fewer.log_prob(known)
    hard = model.evidence(known.values)
    with pytest.raises(pf.EvidenceError, match="row 0, variable 2 is 4"):
        fewer.log_prob(hard)


def test_more_may_be_observed() -> None:
    model, soft = _model(), torch.randn(2, 3, 5)
    known = model.evidence(pf.Evidence([[0, NAN, NAN]] * 2, None, soft))
    where = torch.tensor([[False, True, False], [False, False, True]])
    more = known.observing(ROWS, where)
    wanted = pf.Evidence([[0, 1, NAN], [0, NAN, 1]], None, soft)
    assert torch.equal(model.log_prob(more), model.log_prob(wanted))
    assert known.missing[:, 1:].all()  # not edited
    with pytest.raises(pf.EvidenceError, match="row 1, variable 2 is 9"):
        known.observing(torch.full((2, 3), 9), where & (torch.arange(2).unsqueeze(-1) == 1))
    constant = pf.compile(pf.hmm(3, states=1, inputs=pf.Categorical(1))).evidence(ROWS * 0)
    assert torch.equal(constant.observing(ROWS + 1, ROWS < 0).values, ROWS * 0)
