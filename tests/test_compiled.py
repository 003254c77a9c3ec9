"""The compiled circuit as a torch module: parameters, devices, caches, randomness, refusals."""

import copy
from collections.abc import Callable

import pytest
import torch
from device import DEVICE
from torch import Tensor

import pcflow as pf


@pytest.fixture
def circuit() -> pf.Circuit:
    regions = pf.structure.random_binary_tree(5, replicas=2)
    return pf.build_circuit(regions, pf.Categorical(3), units=2)


@pytest.fixture
def x() -> Tensor:
    return torch.randint(3, (6, 5))


def test_log_prob_follows_every_way_of_changing_parameters(circuit: pf.Circuit, x: Tensor) -> None:
    model = pf.compile(circuit, DEVICE, torch.float64)
    seen = [model.log_prob(x).detach()]

    def changed() -> None:
        now = model.log_prob(x).detach()
        wanted = pf.reference_log_prob(model.circuit, x)
        torch.testing.assert_close(now.cpu(), wanted, rtol=1e-9, atol=1e-9)
        assert not any(torch.equal(now, before) for before in seen)
        seen.append(now)

    with torch.no_grad():
        for bank in model.banks:
            bank.mul_(0.5)
    changed()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    (-model.log_prob(x).mean()).backward()
    optimizer.step()
    changed()
    other = pf.compile(circuit.replace({}), DEVICE, torch.float64)
    with torch.no_grad():
        for bank in other.banks:
            bank.normal_()
    model.load_state_dict(other.state_dict())
    changed()
    model.banks[0] = torch.nn.Parameter(torch.randn_like(model.banks[0]))
    changed()


def test_precision_can_be_changed_later(circuit: pf.Circuit, x: Tensor) -> None:
    model = pf.compile(circuit, DEVICE, torch.float32)
    assert model.log_prob(x).dtype == torch.float32
    wide = model.to(torch.float64)
    assert wide.log_prob(x).dtype == torch.float64
    wanted = pf.reference_log_prob(wide.circuit, x)
    torch.testing.assert_close(wide.log_prob(x).detach().cpu(), wanted, rtol=1e-9, atol=1e-9)


def test_a_copy_is_independent(circuit: pf.Circuit, x: Tensor) -> None:
    model = pf.compile(circuit, DEVICE)
    before = model.log_prob(x).detach()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for bank in twin.banks:
            bank.normal_()
    assert not torch.allclose(twin.log_prob(x), before)
    assert torch.equal(model.log_prob(x).detach(), before)
    assert twin.circuit is not model.circuit
    wanted = pf.reference_log_prob(twin.circuit, x)
    torch.testing.assert_close(
        twin.log_prob(x).detach().double().cpu(), wanted, rtol=1e-5, atol=1e-5
    )


def test_gradients_accumulate_and_graphs_are_independent(circuit: pf.Circuit, x: Tensor) -> None:
    model = pf.compile(circuit, DEVICE, torch.float64)
    first, second = model.log_prob(x[:3]), model.log_prob(x[3:])
    second.sum().backward()  # in the order that recycled memory would spoil
    first.sum().backward()
    apart = [bank.grad.clone() for bank in model.banks if bank.grad is not None]
    model.zero_grad()
    model.log_prob(x).sum().backward()
    for bank, grad in zip(model.banks, apart, strict=True):
        torch.testing.assert_close(bank.grad, grad, rtol=1e-9, atol=1e-12)


def test_tied_parameters_of_one_bank_have_gradients_of_their_own_in_log_space_too() -> None:
    leaves = [pf.InputLayer.random(v, pf.Categorical(3), 2) for v in range(4)]
    tied = [pf.Parameter(torch.randn(2, 2)) for _ in range(2)]
    sums = [pf.SumLayer([leaf], tied[v % 2]) for v, leaf in enumerate(leaves)]
    normal = {
        "mean": pf.Parameter(torch.tensor([0.0, 40.0])),
        "log_std": pf.Parameter(torch.zeros(2)),
    }
    apart = [pf.InputLayer(v, pf.Gaussian(), 2, normal) for v in (4, 5)]
    circuit = pf.Circuit(pf.SumLayer.random([pf.ProductLayer([*sums, *apart])]))
    model = pf.compile(circuit, DEVICE, torch.float64)
    x = torch.cat([torch.randint(3, (2, 4)), torch.tensor([[0, 0], [0, 40]])], dim=1).float()
    model.log_prob(x).sum().backward()
    assert model.rows.log_space == 1  # at 0 and 40, both units are e^-800
    values = {p: p.value.double().clone().requires_grad_() for p in circuit.parameters}
    pf.reference_log_prob(circuit, x, values).sum().backward()
    assert tied in (list(members) for members in model.plan.banks)
    for bank, members in zip(model.banks, model.plan.banks, strict=True):
        for grad, parameter in zip(bank.grad, members, strict=True):  # type: ignore[arg-type]
            torch.testing.assert_close(grad.cpu(), values[parameter].grad, rtol=1e-9, atol=1e-9)


def test_a_frozen_circuit_passes_gradients_to_potentials_only(circuit: pf.Circuit) -> None:
    model = pf.compile(circuit, DEVICE).requires_grad_(False)
    potentials = torch.randn(2, 5, 3, requires_grad=True)
    nothing = torch.ones(2, 5, dtype=torch.bool)
    model.log_prob(pf.Evidence(missing=nothing, log_potentials=potentials)).sum().backward()
    assert potentials.grad is not None
    # every variable hands down all of its mass
    torch.testing.assert_close(potentials.grad.sum(-1), torch.ones(2, 5))
    assert all(bank.grad is None for bank in model.banks)


def test_editing_parameters_before_backward_is_refused(circuit: pf.Circuit, x: Tensor) -> None:
    model = pf.compile(circuit, DEVICE)
    found = model.log_prob(x).sum()
    with torch.no_grad():
        model.banks[0].add_(1.0)
    with pytest.raises(RuntimeError, match="edited between log_prob and backward"):
        found.backward()


@pytest.mark.parametrize("memory", [1, 1 << 30])
def test_editing_evidence_before_backward_is_harmless_or_refused(
    circuit: pf.Circuit, x: Tensor, memory: int
) -> None:
    model = pf.compile(circuit, DEVICE, torch.float64, memory=memory)
    model.log_prob(x).sum().backward()
    wanted = [bank.grad.clone() for bank in model.banks if bank.grad is not None]
    model.zero_grad()
    values = x.to(DEVICE, copy=True)
    found = model.log_prob(values).sum()
    values.zero_()
    found.backward()
    for bank, grad in zip(model.banks, wanted, strict=True):
        torch.testing.assert_close(bank.grad, grad)
    soft = torch.randn(6, 5, 3, dtype=torch.float64, device=DEVICE)
    missing = torch.ones(6, 5, dtype=torch.bool)
    found = model.log_prob(pf.Evidence(missing=missing, log_potentials=soft)).sum()
    soft.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.backward()


def test_the_same_generator_gives_the_same_draws(circuit: pf.Circuit, x: Tensor) -> None:
    model = pf.compile(circuit, DEVICE)
    partial = x.float().masked_fill(torch.rand(6, 5) < 0.5, torch.nan)
    for about in (None, partial):
        one, two, three = (
            model.sample(50, about, torch.Generator(DEVICE).manual_seed(seed)) for seed in (1, 1, 2)
        )
        assert torch.equal(one, two)
        assert not torch.equal(one, three)
    torch.manual_seed(7)
    first = model.sample(50)
    torch.manual_seed(7)
    assert torch.equal(model.sample(50), first)


@pytest.mark.parametrize("shape", [(7, 5), (3, 3)])
def test_a_ragged_tree_is_descended_too(shape: tuple[int, int]) -> None:
    """Its products read rows that do not lie side by side."""
    regions = pf.structure.quad_tree(shape)
    model = pf.compile(pf.build_circuit(regions, pf.Bernoulli(), units=3), DEVICE, torch.float64)
    assert any(
        not isinstance(read.rows, slice)
        for step in model.plan.steps
        for read in getattr(step, "inputs", ())
    ) == (shape == (7, 5))
    given = torch.full((2, regions.num_variables), torch.nan)
    given[1, ::2] = 1.0
    drawn = model.sample(20_000, given)
    assert (drawn[:, 1, ::2] == 1.0).all()
    wanted = model.marginals(given)[..., 1].exp()
    torch.testing.assert_close(drawn.double().mean(dim=0), wanted, rtol=0.0, atol=0.02)
    soft = pf.Evidence(given, log_potentials=3.0 * torch.randn(2, regions.num_variables, 2))
    wanted = model.marginals(soft)[..., 1].exp()
    drawn = model.sample(20_000, soft)
    torch.testing.assert_close(drawn.double().mean(dim=0), wanted, rtol=0.0, atol=0.02)


@pytest.mark.parametrize("structure", [pf.structure.quad_tree, pf.structure.quad_graph])
def test_a_seed_gives_the_same_draws_on_any_number_of_threads(
    structure: Callable[[tuple[int, int]], pf.RegionGraph],
) -> None:
    model = pf.compile(pf.build_circuit(structure((12, 12)), pf.Categorical(5), units=8))
    half = (
        model.sample(1)[0].float().expand(70, -1).masked_fill(torch.rand(70, 144) < 0.5, torch.nan)
    )
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            source = torch.Generator().manual_seed(3)
            some = model.sample(300, generator=source), model.sample(2, half, generator=source)
            found.append(torch.cat([part.flatten() for part in some]))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


def test_draws_given_nothing_are_those_of_a_row_beside_one_that_knows_something() -> None:
    for structure in (pf.structure.quad_tree, pf.structure.quad_graph):
        model = pf.compile(pf.build_circuit(structure((3, 3)), pf.Categorical(2), units=2))
        rows = torch.full((2, 9), torch.nan)
        rows[1, 0] = 1.0
        alone = model.sample(20_000).double().mean(dim=0)
        beside = model.sample(20_000, rows)[:, 0].double().mean(dim=0)
        assert (alone - beside).abs().max() < 0.03  # six standard errors


def test_draws_of_mixed_columns_are_real_numbers() -> None:
    columns = [pf.Categorical(3), pf.Gaussian(), pf.Bernoulli()]
    model = pf.compile(pf.build_circuit(pf.structure.chain(3), columns, units=2), DEVICE)
    drawn = model.sample(200)
    assert drawn.is_floating_point()
    assert set(drawn[:, 0].tolist()) <= {0.0, 1.0, 2.0}
    assert len(set(drawn[:, 1].tolist())) == 200
    best = model.mpe(torch.tensor([[torch.nan, torch.nan, 1.0]]))
    assert best.values[0, 2] == 1.0
    torch.testing.assert_close(
        best.log_value, model.log_prob(best.values).detach(), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("narrow", [0.01, 100.0])
def test_a_missing_real_value_weighs_its_density_at_the_mode(narrow: float) -> None:
    named = {"mean": torch.tensor([-1.0, 1.0]), "log_std": torch.tensor([1.0, narrow]).log()}
    values = {name: pf.Parameter(value.double()) for name, value in named.items()}
    sides = pf.InputLayer(0, pf.Gaussian(), 2, values)
    either = pf.SumLayer([sides], pf.Parameter.from_probs([[0.5, 0.5]]))
    best = pf.compile(pf.Circuit(either), DEVICE, torch.float64).mpe(torch.full((1, 1), torch.nan))
    assert best.values.item() == (1.0 if narrow < 1 else -1.0)


def test_temperature_sharpens_values_and_keeps_the_latent_path() -> None:
    one_path = pf.compile(pf.hmm(3, states=1, inputs=pf.Categorical(4)), DEVICE)
    cold = one_path.sample(30, temperature=0.0)
    assert torch.equal(cold, one_path.mpe(torch.full((1, 3), torch.nan)).values.expand(30, -1))
    probability = one_path.marginals(torch.full((1, 3), torch.nan))[0, 0].exp()
    sharp = probability**2 / (probability**2).sum()
    drawn = one_path.sample(20_000, temperature=0.5)[:, 0]
    frequency = torch.bincount(drawn, minlength=4) / 20_000
    torch.testing.assert_close(frequency, sharp, rtol=0.0, atol=0.02)


def test_a_batch_without_rows_gives_answers_without_rows(circuit: pf.Circuit) -> None:
    model = pf.compile(circuit, DEVICE)
    none = torch.empty(0, 5)
    assert model.log_prob(none).shape == (0,)
    assert model.conditionals(none).shape == (0, 5)
    assert model.next_log_probs(none).shape == (0, 5, 3)
    assert model.next_log_probs(torch.zeros(2, 5), variables=[]).shape == (2, 0, 3)
    assert model.marginals(none).shape == (0, 5, 3)
    assert model.sample(4, none).shape == (4, 0, 5)
    assert model.mpe(none).values.shape == (0, 5)
    assert model.sample(0).shape == (0, 5)


@pytest.mark.parametrize("kind", ["hard", "soft", "listed"])
def test_rows_of_checked_evidence_are_a_batch_by_themselves(circuit: pf.Circuit, kind: str) -> None:
    model, g = pf.compile(circuit, DEVICE, torch.float64), torch.Generator().manual_seed(0)
    values = torch.randint(3, (4, 5), generator=g)
    missing = torch.rand(4, 5, generator=g) < 0.6
    soft = None if kind == "hard" else torch.randn(4, 5, 3, generator=g).double()
    known = pf.Evidence(values, missing, soft)
    known = known.top_k(2) if kind == "listed" else known
    some = torch.tensor([3, 0, 3])
    mine, wanted = model.evidence(known).rows(some.to(DEVICE)), known.rows(some)
    for ask in (model.log_prob, model.marginals, model.mean, lambda x: model.mpe(x).values):
        torch.testing.assert_close(ask(mine), ask(wanted))
    zeros = torch.zeros(3, 5, 2, dtype=torch.long)
    for ask in (
        lambda x: model.marginals(x, categories=zeros),
        lambda x: model.sample_with_marginals(2, x, torch.Generator(DEVICE).manual_seed(0)).values,
    ):
        torch.testing.assert_close(ask(mine), ask(wanted))


def test_potentials_beside_real_values_count_where_a_value_was_chosen() -> None:
    columns = [pf.Categorical(3), pf.Gaussian()]
    model = pf.compile(pf.build_circuit(pf.structure.chain(2), columns), DEVICE, torch.float64)
    potentials = torch.zeros(3, 2, 3, dtype=torch.float64)
    potentials[:, 0] = torch.tensor([1.0, 2.0, 50.0])
    x = torch.tensor([[torch.nan, 7.0], [torch.nan, -7.0], [1.0, 0.5]])
    best = model.mpe(pf.Evidence(x, log_potentials=potentials))
    assert best.values[:, 0].tolist() == [2.0, 2.0, 1.0]
    chosen = torch.tensor([50.0, 50.0, 0.0], dtype=torch.float64, device=DEVICE)
    wanted = model.log_prob(best.values).detach() + chosen
    torch.testing.assert_close(best.log_value, wanted, rtol=1e-9, atol=1e-9)


def test_listed_potentials_say_nothing_of_real_values_that_were_chosen() -> None:
    columns = [pf.Categorical(3), pf.Gaussian()]
    model = pf.compile(pf.build_circuit(pf.structure.chain(2), columns), DEVICE, torch.float64)
    log = torch.zeros(1, 2, 1, dtype=torch.float64)
    log[0, 0] = 1.5
    categories = torch.tensor([[[2], [2]]])  # and no real value rounds to 2
    best = model.mpe(pf.Evidence(torch.full((1, 2), torch.nan), None, log, categories))
    assert best.values[0, 0] == 2.0
    torch.testing.assert_close(best.log_value, model.log_prob(best.values).detach() + 1.5)


def test_many_draws_come_in_blocks() -> None:
    wide = pf.compile(pf.naive_bayes([pf.Bernoulli()] * 2, units=1 << 14), DEVICE)
    many = wide.plan.samples_at_a_time + 1
    assert wide.sample(many).shape == (many, 2)
    given = torch.tensor([[1.0, torch.nan]]).expand(many, -1)
    drawn = wide.sample(2, given)
    assert drawn.shape == (2, many, 2)
    assert (drawn[..., 0] == 1.0).all()


def test_impossible_rows_are_named() -> None:
    either = [pf.InputLayer(0, pf.Indicator(v, 3)) for v in (0, 1)]
    circuit = pf.Circuit(pf.SumLayer(either, pf.Parameter.from_probs([[0.5, 0.5]])))
    model = pf.compile(circuit, DEVICE)
    x = torch.tensor([[0], [2], [1], [2]])
    assert model.log_prob(x).exp().tolist() == [0.5, 0.0, 0.5, 0.0]
    by_row = pf.compile(circuit, DEVICE, memory=1).mean
    for query in (model.marginals, model.mean, by_row, model.mpe, lambda x: model.sample(1, x)):
        with pytest.raises(pf.NoMassError, match="row 1, 3") as refused:
            query(x)
        assert refused.value.rows == (1, 3)


def test_projection_shortens_steps_that_would_overshoot() -> None:
    """Eight copies of one bit: together, full steps ask for eight times the change, and swing."""
    tables = [pf.Parameter.from_probs([[p], [1 - p]]) for p in (0.999, 0.001)]
    copies = [
        [pf.InputLayer(v, pf.Categorical(2), 1, {"logits": table}) for v in range(8)]
        for table in tables  # two layers per variable: no tree
    ]
    either = pf.SumLayer(map(pf.ProductLayer, copies), pf.Parameter.from_probs([[0.5, 0.5]]))
    model = pf.compile(pf.Circuit(either), DEVICE, torch.float64)
    target = torch.tensor([0.9, 0.1], dtype=torch.float64).log().expand(1, 8, 2)
    fitted = model.project(torch.full((1, 8), torch.nan), target, sweeps=30)
    assert fitted.mismatch is not None
    assert fitted.mismatch.item() < 1e-3
    torch.testing.assert_close(
        model.marginals(fitted)[..., 0].exp().cpu(),
        torch.full((1, 8), 0.9, dtype=torch.float64),
        rtol=0.0,
        atol=1e-3,
    )


def test_queries_say_what_they_need(circuit: pf.Circuit) -> None:
    columns = [pf.Categorical(3), pf.Gaussian()]
    model = pf.compile(pf.build_circuit(pf.structure.chain(2), columns), DEVICE)
    nothing = torch.full((1, 2), torch.nan)
    with pytest.raises(pf.PropertyRequired, match="finite range"):
        model.marginals(nothing)
    with pytest.raises(pf.PropertyRequired, match="finite range"):
        model.project(nothing, torch.zeros(1, 2, 3))
    plain = pf.compile(circuit, DEVICE)
    with pytest.raises(ValueError, match="sweeps"):
        plain.project(torch.full((1, 5), torch.nan), torch.zeros(1, 5, 3), sweeps=0)
    with pytest.raises(pf.EvidenceError, match="row 0, variable 2 has no mass"):
        target = torch.zeros(1, 5, 3)
        target[0, 2] = -torch.inf
        plain.project(torch.full((1, 5), torch.nan), target)
    with pytest.raises(ValueError, match="n must be"):
        plain.sample(-1)
    with pytest.raises(ValueError, match="temperature"):
        plain.sample(1, temperature=-0.5)


def test_compile_refuses_what_it_cannot_run(circuit: pf.Circuit) -> None:
    with pytest.raises(TypeError, match="Circuit"):
        pf.compile(pf.structure.chain(3))  # type: ignore[arg-type]
    with pytest.raises(pf.SettingError, match="float16"):
        pf.compile(circuit, dtype=torch.float16)
    for memory in (0, "1", 1.5, float("nan")):
        with pytest.raises(pf.SettingError, match="memory must be a whole number"):
            pf.compile(circuit, memory=memory)  # type: ignore[arg-type]


def test_a_copy_of_an_edited_model_answers_by_its_present_parameters() -> None:
    """Copies of tensors count their edits from zero, as the original did when it answered last."""
    model = pf.compile(pf.hmm(3, 2, pf.Categorical(3)), dtype=torch.float64)
    x = torch.randint(3, (5, 3))
    model.log_prob(x)
    exported = model.circuit
    with torch.no_grad():
        for bank in model.banks:
            bank.add_(torch.randn_like(bank))
    for copied in (copy.deepcopy(model), copy.copy(model)):
        assert copied.circuit is not exported
        wanted = pf.reference_log_prob(copied.circuit, x)
        torch.testing.assert_close(copied.log_prob(x), wanted)
        torch.testing.assert_close(copied.log_prob(x), model.log_prob(x))
