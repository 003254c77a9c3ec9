"""Training a circuit against a backbone, alone and together with it, in one process and in two."""

import copy
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from processes import ends, start_together
from torch import Tensor

import pcflow as pf
from pcflow.testing import enumerate_states, enumerate_weights
from pcflow_diffusion import (
    Blocks,
    CircuitHead,
    Denoiser,
    DenoiserConfig,
    StoredLogits,
    coupled_nats_over_time,
    fit_conditional,
    fit_jointly,
    store_logits,
)
from pcflow_diffusion.errors import (
    CouplingError,
    NothingMasked,
    ShapeMismatch,
    TokenOutOfRange,
)

LENGTH, V = 4, 3
MASK = V
LEARNERS: dict[str, Callable[[], pf.Learner]] = {
    "Anemone": lambda: pf.Anemone(0.4, momentum=0.5, decay=True),
    "Adam": lambda: pf.Gradient(lambda p: torch.optim.Adam(p, lr=0.05), decay=True),
}
every_learner = pytest.mark.parametrize("learner", LEARNERS)
every_coupling = pytest.mark.parametrize("coupling", ["product", "projection"])


def truth() -> pf.CompiledCircuit:
    generator = torch.Generator().manual_seed(1)
    circuit = pf.hmm(LENGTH, 3, pf.Categorical(V), generator=generator)
    return pf.compile(circuit, dtype=torch.float64)


def student() -> pf.CompiledCircuit:
    generator = torch.Generator().manual_seed(2)
    circuit = pf.hmm(LENGTH, 3, pf.Categorical(V), generator=generator)
    return pf.compile(circuit, dtype=torch.float64)


def blocks(count: int, seed: int = 0) -> Blocks:
    """Of a known chain, with its true posteriors as the backbone's logits."""
    generator, model = torch.Generator().manual_seed(seed), truth()
    x0 = model.sample(count, generator=generator)
    masked = torch.rand(x0.shape, generator=generator) < 0.75
    log_q = model.marginals(pf.Evidence(x0, masked))
    return Blocks(log_q, x0.masked_fill(masked, MASK), x0)


def values(model: pf.CompiledCircuit) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def nats(head: CircuitHead, of: Blocks) -> float:
    """Per block, by enumeration of every completion."""
    states, total = torch.tensor(list(itertools.product(range(V), repeat=LENGTH))), 0.0
    with torch.no_grad():
        log_p, potentials = head.model.log_prob(states), head.couple(of.logits, of.x).log_potentials
    assert potentials is not None
    for soft, x, x0 in zip(potentials, of.x, of.x0, strict=True):
        masked = x == MASK
        score = soft.gather(1, states.t()).masked_fill(~masked[:, None], 0.0).sum(0)
        joint = (log_p + score).masked_fill(~((states == x) | masked).all(dim=1), -torch.inf)
        total -= float((joint - joint.logsumexp(0))[(states == x0).all(dim=1)])
    return total / len(of.x)


def trained(
    coupling: str = "product", learner: str = "Anemone", **more: object
) -> tuple[CircuitHead, pf.FitResult]:
    head = CircuitHead(student(), MASK, coupling)
    settings = {"epochs": 8, "batch_size": 32, "progress": False} | more
    settings.setdefault("generator", torch.Generator().manual_seed(0))
    train = settings.pop("train", blocks(300))
    return head, fit_conditional(head, train, LEARNERS[learner](), **settings)  # type: ignore[arg-type]


@every_learner
@every_coupling
def test_training_improves_the_coupling_on_new_blocks(learner: str, coupling: str) -> None:
    fresh = blocks(100, 9)
    before = nats(CircuitHead(student(), MASK, coupling), fresh)
    best = nats(CircuitHead(truth(), MASK, "ratio"), fresh)  # the truth itself
    head, result = trained(coupling, learner, train=blocks(600), validation=fresh)
    assert nats(head, fresh) == pytest.approx(-max(result.validation))
    assert before - nats(head, fresh) > 0.2 * (before - best)


@every_learner
def test_what_is_told_first_is_the_objective_by_enumeration(learner: str) -> None:
    given = blocks(40)
    _, result = trained("product", learner, train=given, epochs=1, batch_size=40)
    wanted = nats(CircuitHead(student(), MASK, "product"), given)
    assert result.train == [pytest.approx(-wanted)]


def test_the_gradient_of_the_projection_holds_its_potentials_fixed() -> None:
    """One step of plain gradient descent, against the autograd of the two likelihoods alone."""
    given, head = blocks(20), CircuitHead(student(), MASK, "projection")
    coupled = head.couple(given.logits, given.x)
    wanted = student()
    (wanted.log_prob(given.x0) - wanted.log_prob(coupled)).mean().backward()
    descent = pf.Gradient(lambda p: torch.optim.SGD(p, lr=1.0))
    fit_conditional(head, given, descent, epochs=1, progress=False)
    for bank, start in zip(head.model.banks, wanted.banks, strict=True):
        assert start.grad is not None
        torch.testing.assert_close(bank.detach(), start.detach() + start.grad)


@pytest.mark.parametrize("k", [1, 2])
@every_learner
def test_tokens_that_are_not_listed_are_summed_out(learner: str, k: int) -> None:
    """The objective is that of the other tokens, over what is listed, by enumeration."""
    given = blocks(40)
    head = CircuitHead(student(), MASK, "product", top_k=k)
    few = head.couple(given.logits, given.x)
    assert few.log_potentials is not None and few.categories is not None
    spread = torch.full_like(given.logits, -torch.inf)
    spread = spread.scatter(-1, few.categories, few.log_potentials)
    known = (spread.gather(-1, given.x0.unsqueeze(-1)).squeeze(-1) > -torch.inf) | (given.x != MASK)
    assert not known.all()
    states = enumerate_states(student().circuit)
    soft = pf.Evidence(given.x.masked_fill(given.x == MASK, 0), given.x == MASK, spread)
    log_q = enumerate_weights(student().circuit, soft).log_weight.log_softmax(-1)  # [N, S]
    agree = ((states == given.x0.unsqueeze(1)) | ~known.unsqueeze(1)).all(-1)
    wanted = log_q.masked_fill(~agree, -torch.inf).logsumexp(-1).mean()
    result = fit_conditional(
        head, given, LEARNERS[learner](), epochs=1, batch_size=40, progress=False
    )
    assert result.train == [pytest.approx(float(wanted))]
    assert head.log_prob(given.logits, given.x, given.x0).isfinite().all()
    alone = pf.Potentials.of(few.log_potentials, few.categories)  # and there are no others
    unlisted = head.log_prob(alone, given.x, given.x0) == -torch.inf
    assert torch.equal(unlisted, ~known.all(-1))


@every_learner
def test_weights_count_blocks_again_and_not_at_all(learner: str) -> None:
    given, weights = blocks(30), torch.arange(30) % 3
    again = given[torch.arange(30).repeat_interleave(weights)]
    one, _ = trained("product", learner, train=given, weights=weights, batch_size=100)
    other, _ = trained("product", learner, train=again, batch_size=100)
    torch.testing.assert_close(values(one.model), values(other.model), rtol=1e-6, atol=1e-6)


@every_learner
def test_training_reads_stored_logits(learner: str, tmp_path: Path) -> None:
    given = blocks(70)
    table = {tuple(x.tolist()): row for x, row in zip(given.x, given.logits, strict=True)}

    def backbone(tokens: Tensor) -> Tensor:
        return torch.stack([table[tuple(row.tolist())] for row in tokens])

    stored = store_logits(backbone, tmp_path, given.x0, given.x, shard_size=32, progress=False)
    one, _ = trained("product", learner, train=stored)
    other, _ = trained("product", learner, train=given)
    assert torch.equal(values(one.model), values(other.model))
    assert isinstance(stored, StoredLogits)


@pytest.mark.parametrize("coupling", ["product", "ratio", "projection"])
def test_listed_logits_teach_what_the_head_would_list_of_all(coupling: str) -> None:
    given, k = blocks(70), 2
    top = pf.Potentials.of(given.logits).top_k(k)
    listed, found = Blocks(top, given.x, given.x0), CircuitHead(student(), MASK, coupling)
    wanted = CircuitHead(student(), MASK, coupling, top_k=k)
    for head, some in ((found, listed), (wanted, given)):
        order = torch.Generator().manual_seed(0)
        fit_conditional(head, some, epochs=2, batch_size=20, progress=False, generator=order)
    torch.testing.assert_close(values(found.model), values(wanted.model))
    log_q = [head.log_prob(top, given.x, given.x0) for head in (found, wanted)]
    torch.testing.assert_close(*log_q)
    fitted = (h.fit_coupling(b.logits, b.x, b.x0) for h, b in ((found, listed), (wanted, given)))
    one, other = fitted
    assert (one.a, one.b) == (pytest.approx(other.a), pytest.approx(other.b))


@every_learner
def test_early_stopping_keeps_the_best_parameters(learner: str) -> None:
    held_out = blocks(40, 9)
    head, result = trained(
        "product", learner, train=blocks(20), validation=held_out, patience=3, epochs=60,
        batch_size=5,
    )  # fmt: skip
    assert len(result.train) < 60
    assert result.best_epoch == len(result.train) - 4
    assert nats(head, held_out) == pytest.approx(-max(result.validation))


@every_learner
@every_coupling
def test_a_stopped_run_goes_on_to_the_same_parameters(
    learner: str, coupling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, held_out = tmp_path / "run", blocks(20, 9)
    whole, _ = trained(coupling, learner, validation=held_out, epochs=4)
    write, written = pf.learn.checkpoint.write_file, 0  # type: ignore[attr-defined]

    def once(*arguments: object) -> None:
        nonlocal written
        write(*arguments)
        written += 1
        if written == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("pcflow.learn.checkpoint.write_file", once)
    with pytest.raises(KeyboardInterrupt):
        trained(coupling, learner, validation=held_out, epochs=4, checkpoint=file)
    resumed, _ = trained(coupling, learner, validation=held_out, epochs=4, checkpoint=file)
    assert torch.equal(values(resumed.model), values(whole.model))


def test_it_is_reproducible_quiet_and_edits_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    given = blocks(50)
    before = given.logits.clone()
    one, _ = trained(train=given)
    other, _ = trained(train=given)
    assert torch.equal(values(one.model), values(other.model))
    assert torch.equal(given.logits, before)
    assert capsys.readouterr().err == ""
    trained(train=given, progress=True)
    assert "400/400" in capsys.readouterr().err


def test_blocks_that_do_not_fit_are_refused() -> None:
    given = blocks(10)
    with pytest.raises(NothingMasked, match="masked"):
        trained(train=Blocks(given.logits, given.x0, given.x0))
    with pytest.raises(ShapeMismatch, match="weights"):
        trained(train=given, weights=torch.ones(9))
    with pytest.raises(ShapeMismatch, match="logits"):
        Blocks(given.logits[:, :2], given.x, given.x0)
    with pytest.raises(ShapeMismatch, match="x0"):
        Blocks(given.logits, given.x, given.x0[:2])
    with pytest.raises(TokenOutOfRange):
        trained(train=Blocks(given.logits, given.x, given.x))


def learn(out: Path, distributed: bool = False) -> None:
    """Save under names that begin with `out` what is learned in every way."""
    rank = torch.distributed.get_rank() if distributed else 0
    for name, coupling in itertools.product(LEARNERS, ("product", "projection")):
        torch.manual_seed(rank)
        head = CircuitHead(student(), MASK, coupling)
        fit_conditional(
            head, blocks(35), LEARNERS[name](), epochs=2, batch_size=17, validation=blocks(31, 2),
            weights=torch.rand(35, generator=torch.Generator().manual_seed(3)) + 0.5,
            progress=False, distributed=distributed,
        )  # fmt: skip
        if rank == 0:
            pf.save(head.model, f"{out}-{name}-{coupling}")
    torch.manual_seed(rank)
    head, denoiser = pair(seed=rank)  # all begin with what the first one has
    draws = torch.Generator().manual_seed(rank)
    losses = jointly(
        head, denoiser, steps=8, batch_size=9, distributed=distributed, generator=draws
    )
    if rank == 0:
        pf.save(head.model, f"{out}-jointly")
        learned = [weight.detach().flatten() for weight in denoiser.parameters()]
        torch.save(torch.cat([*learned, torch.tensor(losses)]), f"{out}-denoiser")


def learn_together(out: Path) -> None:
    torch.distributed.init_process_group("gloo")
    learn(out, distributed=True)
    torch.distributed.destroy_process_group()


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    """Batches of 17 rows and a last one of a single row: the second process then has none."""
    together = start_together(2, learn_together, tmp_path / "2")
    learn(tmp_path / "1")
    assert ends(together) == [0, 0]
    for name, coupling in itertools.product(LEARNERS, ("product", "projection")):
        one, two = (values(pf.load(tmp_path / f"{n}-{name}-{coupling}")) for n in (1, 2))
        torch.testing.assert_close(two, one, rtol=1e-6, atol=1e-6)
    one, two = (values(pf.load(tmp_path / f"{n}-jointly")) for n in (1, 2))
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-4)
    one, two = (torch.load(tmp_path / f"{n}-denoiser") for n in (1, 2))
    torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-4)


def periodic(rows: int, length: int = 8) -> Tensor:
    """Rows that count upwards, by one or by two."""
    start, step = torch.arange(rows) % V, 1 + torch.arange(rows) // V % 2
    return (start[:, None] + step[:, None] * torch.arange(length)) % V


def pair(seed: int = 0) -> tuple[CircuitHead, Denoiser]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        denoiser = Denoiser(DenoiserConfig(V, width=16, depth=1, heads=2, dropout=0.0))
        model = pf.compile(pf.hmm(LENGTH, 4, pf.Categorical(V)))
    return CircuitHead(model, MASK, "product"), denoiser


def jointly(
    head: CircuitHead, denoiser: Denoiser, rate: float = 3e-3, **more: object
) -> list[float]:
    settings: dict[str, object] = {"steps": 60, "circuit_learning_rate": 0.05, "progress": False}
    settings |= {"learning_rate": rate, "generator": torch.Generator().manual_seed(0)} | more
    return fit_jointly(head, denoiser, periodic(60), **settings)  # type: ignore[arg-type]


def held_out_nats(head: CircuitHead, denoiser: Denoiser, schedule: str = "linear") -> float:
    generator = torch.Generator().manual_seed(1)
    return coupled_nats_over_time(
        head, denoiser, periodic(200), schedule=schedule, generator=generator
    )


def test_the_objective_does_not_depend_on_how_many_rows_are_asked_at_a_time() -> None:
    head, denoiser = pair()
    whole, parts = (
        coupled_nats_over_time(
            head, denoiser, periodic(20), batch_size=size, generator=torch.manual_seed(0)
        )
        for size in (20, 3)
    )
    assert parts == pytest.approx(whole, rel=1e-6)


def test_joint_training_beats_a_frozen_backbone_which_beats_none() -> None:
    start = held_out_nats(*pair())
    frozen, joint = pair(), pair()
    jointly(*frozen, rate=0.0)
    jointly(*joint)
    assert held_out_nats(*joint) < held_out_nats(*frozen) - 0.05 < start - 0.1


def test_a_rate_of_zero_leaves_the_backbone_alone_and_another_does_not() -> None:
    for rate, same in ((0.0, True), (1e-3, False)):
        head, denoiser = pair()
        before = copy.deepcopy(denoiser.state_dict())
        circuit = values(head.model).clone()
        jointly(head, denoiser, rate, steps=2)
        found = denoiser.state_dict()
        assert all(torch.equal(found[n], w) for n, w in before.items()) is same
        assert not torch.equal(values(head.model), circuit)
        assert not denoiser.training


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_joint_objective_by_enumeration(schedule: str) -> None:
    """The first loss, with the same draws: sum w nats / sum w masked."""
    from pcflow_diffusion.models import elbo_weights, mask_tokens, sample_times, schedule_by_name

    head, denoiser = pair()
    head.model.double()
    seed = torch.randint(2**62, (), generator=torch.Generator().manual_seed(0))
    draws = torch.Generator().manual_seed(int(seed))
    rows = periodic(60)[torch.randint(60, (16,), generator=draws)]
    times = sample_times(16, draws).clamp(min=1 / LENGTH)
    probability = schedule_by_name(schedule).mask_probability(times)
    x = mask_tokens(rows[:, -LENGTH:], probability, MASK, draws)
    logits = denoiser(torch.cat([rows[:, :-LENGTH], x], dim=1))[:, -LENGTH:].detach()
    of = Blocks(logits.double(), x, rows[:, -LENGTH:])
    weights, masks = elbo_weights(times, schedule).double(), (x == MASK).sum(1).double()
    each = torch.tensor([nats(head, of[torch.tensor([b])]) for b in range(16)])
    wanted = (weights @ each.double() / (weights @ masks)).item()
    found = jointly(head, denoiser, steps=1, batch_size=16, schedule=schedule)
    assert found == [pytest.approx(wanted, rel=1e-5)]


def test_joint_training_is_reproducible_and_shows_a_bar(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert jointly(*pair(), steps=3) == jointly(*pair(), steps=3)
    assert capsys.readouterr().err == ""
    jointly(*pair(), steps=3, progress=True)
    assert "3/3" in capsys.readouterr().err
    assert held_out_nats(*pair()) == held_out_nats(*pair())


def test_what_cannot_be_trained_jointly_is_refused() -> None:
    head, denoiser = pair()
    with pytest.raises(CouplingError, match="no gradient"):
        jointly(CircuitHead(head.model, MASK, "projection"), denoiser)
    with pytest.raises(ShapeMismatch, match=r"C \+ 4"):
        fit_jointly(head, denoiser, torch.zeros(3, 2).long(), steps=1)
    for wrong in ({"steps": 0}, {"batch_size": 0}, {"rate": -1.0}, {"rate": float("nan")}):
        with pytest.raises(pf.SettingError, match=next(iter(wrong))):
            jointly(head, denoiser, **wrong)  # type: ignore[arg-type]


def test_smoothing_by_default_is_nothing_of_a_large_vocabulary() -> None:
    size, states, rows = 20_000, 32, 64
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randint(20, (rows, LENGTH), generator=generator) * 1000
    logits, masked = torch.zeros(rows, LENGTH, 1), torch.full_like(x0, size)
    chain = pf.hmm(LENGTH, states, pf.Categorical(size), generator=generator)
    found = []
    for learner in (None, pf.Anemone(0.5, momentum=0.3, pseudocount=0.0, decay=True)):
        head = CircuitHead(pf.compile(chain), size, "product")
        train = Blocks(logits.expand(-1, -1, size), masked, x0)
        generator = torch.Generator().manual_seed(0)
        fit_conditional(head, train, learner, epochs=5, batch_size=16, generator=generator)
        found.append(float(head.model.log_prob(x0).detach().mean()) / LENGTH)
    assert found[0] > found[1] - 1e-2  # nats per token
