"""Draws from coupled joints against the probabilities that they stand for.

Legend: B batch, L positions, V tokens, S states, N draws.
"""

import pytest
import torch
from device import DEVICE
from scipy.stats import chisquare
from torch import Tensor

import pcflow as pf
from pcflow.testing import enumerate_states, enumerate_weights
from pcflow_diffusion.errors import GenerationError
from pcflow_diffusion.head import Ranking, best, rank, temper
from pcflow_diffusion.head.ranking import check_ranking
from pcflow_diffusion.head.sampling import Draw, draw

L, V, N = 3, 3, 20_000
LEAST = 1e-6  # of the p-value: one false alarm in a million


def world(seed: int) -> tuple[pf.CompiledCircuit, pf.Evidence]:
    """A circuit, and N equal rows of potentials; the middle position is visible in odd worlds."""
    torch.manual_seed(seed)
    model = pf.compile(pf.hmm(L, 3, pf.Categorical(V)), DEVICE, torch.float64)
    values = torch.ones(1, L, dtype=torch.long)
    missing = torch.tensor([[True, seed % 2 == 0, True]])
    potentials = 1.5 * torch.randn(1, L, V, dtype=torch.float64)
    fields = (t.to(DEVICE) for t in (values, missing, potentials))
    return model, pf.Evidence(*(t.expand(N, *t.shape[1:]) for t in fields))


def joint(model: pf.CompiledCircuit, coupled: pf.Evidence) -> Tensor:
    """Probabilities [S] of all states."""
    first = pf.Evidence(*(t[:1] for t in (coupled.values, coupled.missing, coupled.log_potentials)))  # type: ignore[index]
    return enumerate_weights(model.circuit, first).log_weight[0].softmax(-1)


def sharpened(coupled: pf.Evidence, temperature: float) -> pf.Evidence:
    """Potentials to a power."""
    assert coupled.log_potentials is not None
    sharp = temper(coupled.log_potentials, temperature)
    return pf.Evidence(coupled.values, coupled.missing, sharp, coupled.categories)


def follow(found: Draw, wanted: Tensor) -> None:
    """Tokens are spread over the states as they should be."""
    place = (found.tokens.cpu() * torch.tensor([V * V, V, 1])).sum(-1)
    counts = torch.bincount(place, minlength=V**L).double()
    assert (counts[wanted == 0] == 0).all()
    if (wanted > 0).sum() > 1:
        expected = wanted[wanted > 0] * N
        assert chisquare(counts[wanted > 0], expected).pvalue > LEAST


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("order", ["joint", "sharpened", "any_order"])
@pytest.mark.parametrize("ranking", ["random", "low_confidence"])
def test_at_temperature_one_every_order_draws_exactly(
    seed: int, order: str, ranking: Ranking
) -> None:
    model, coupled = world(seed)
    generator = torch.Generator(DEVICE).manual_seed(seed)
    found = draw(
        model, coupled, L, order=order, ranking=ranking, generator=generator, sharp=coupled
    )  # type: ignore[arg-type]
    follow(found, joint(model, coupled))
    assert torch.equal(found.drawn, coupled.missing)  # type: ignore[arg-type]


def tempered_paths(
    p: Tensor, temperature: float, ranking: Ranking, visible: dict[int, int]
) -> Tensor:
    """Probabilities [S] of drawing token after token from tempered conditionals of p [S]."""
    states = enumerate_states(pf.hmm(L, 1, pf.Categorical(V)))
    out = torch.zeros_like(p)

    def go(known: dict[int, int], mass: float) -> None:
        fits = torch.stack([states[:, v] == x for v, x in known.items()] or [p >= 0]).all(0)
        if len(known) == L:
            out[fits] += mass
            return
        given = p * fits
        log_q = torch.stack(
            [
                torch.stack([given[states[:, v] == x].sum() for x in range(V)]) / given.sum()
                for v in range(L)
            ]
        ).log()
        still = torch.tensor([[v not in known for v in range(L)]])
        chosen = best(rank(ranking, log_q.unsqueeze(0)), still, torch.ones(1))[0].nonzero().item()
        share = temper(log_q[chosen], temperature).softmax(-1)
        for x in range(V):
            if share[x] > 0:
                go(known | {chosen: x}, mass * share[x].item())

    go(visible, 1.0)
    return out


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("temperature", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("ranking", ["low_confidence", "margin", "entropy"])
def test_any_order_draws_follow_the_tempered_conditionals(
    seed: int, temperature: float, ranking: Ranking
) -> None:
    model, coupled = world(seed)
    found = draw(model, coupled, L, order="any_order", temperature=temperature, ranking=ranking)
    visible = {1: 1} if seed % 2 else {}
    follow(found, tempered_paths(joint(model, coupled), temperature, ranking, visible))


def spread(listed: pf.Evidence) -> pf.Evidence:
    """The same potentials, of all tokens."""
    assert listed.log_potentials is not None and listed.categories is not None
    every = torch.full((N, L, V), -torch.inf, dtype=torch.float64, device=DEVICE)
    every.scatter_(-1, listed.categories, listed.log_potentials)
    return pf.Evidence(listed.values, listed.missing, every)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("order", ["joint", "sharpened", "any_order"])
def test_listed_tokens_are_drawn_as_if_no_other_were_possible(seed: int, order: str) -> None:
    model, coupled = world(seed)
    listed = coupled.top_k(2)
    found = draw(model, listed, L, order=order, sharp=listed)  # type: ignore[arg-type]
    follow(found, joint(model, spread(listed)))
    cold, same = (
        draw(model, few, L, order=order, temperature=0.0, sharp=sharpened(few, 0.0))  # type: ignore[arg-type]
        for few in (listed, spread(listed))
    )
    if order != "joint":  # whose latent path is drawn all the same
        assert torch.equal(cold.tokens, same.tokens)
        torch.testing.assert_close(cold.confidence, same.confidence)


@pytest.mark.parametrize("ranking", ["margin", "entropy"])
def test_listed_tokens_in_any_order_at_a_temperature(ranking: Ranking) -> None:
    model, coupled = world(0)
    listed = coupled.top_k(2)
    found = draw(model, listed, L, order="any_order", temperature=0.5, ranking=ranking)
    follow(found, tempered_paths(joint(model, spread(listed)), 0.5, ranking, {}))


@pytest.mark.parametrize("ranking", ["low_confidence", "margin", "entropy"])
@pytest.mark.parametrize("k", [None, 2])
def test_positions_are_scored_by_their_marginals(ranking: Ranking, k: int | None) -> None:
    model, coupled = world(0)
    few = coupled if k is None else coupled.top_k(k)
    found = draw(model, few, L, ranking=ranking)
    log_q = model.marginals(few)
    torch.testing.assert_close(
        found.score, rank(ranking, log_q, log_q.gather(-1, found.tokens.unsqueeze(-1)).squeeze(-1))
    )
    in_turn = draw(model, few, L, order="any_order", ranking=ranking)
    assert (in_turn.score.sort().values.cpu() == torch.tensor([-2.0, -1, 0])).all()


@pytest.mark.parametrize("size", range(1, 6))
def test_rankings_are_what_they_are_called(size: int) -> None:
    q = torch.rand(4, L, size, dtype=torch.float64, device=DEVICE)
    q[:, 0, 1:] = 0.0
    q = q / q.sum(dim=-1, keepdim=True)
    sorted_q = torch.cat([q, torch.zeros_like(q)], dim=-1).sort(descending=True).values
    first, second = sorted_q[..., :2].unbind(-1)
    wanted: dict[Ranking, Tensor] = {
        "low_confidence": first.log(),
        "margin": first - second,
        "entropy": (q * q.clamp_min(1e-300).log()).sum(dim=-1),
    }
    for ranking, score in wanted.items():
        torch.testing.assert_close(rank(ranking, q.log()), score)
    with pytest.raises(pf.SettingError, match="ranking"):
        check_ranking("first")


def tempered_tokens(model: pf.CompiledCircuit, coupled: pf.Evidence, temperature: float) -> Tensor:
    """Probabilities [S] of a latent path as it is, and then tempered tokens (CoDD, Sec. 5.1)."""
    sums = [layer for layer in model.circuit.layers if isinstance(layer, pf.SumLayer)]
    start, move = sums[-1].weight.value.softmax(-1)[0], sums[0].weight.value.softmax(-1)
    (emit,) = {layer.parameters["logits"] for layer in model.circuit.layers if not layer.inputs}  # type: ignore[attr-defined]
    assert coupled.log_potentials is not None
    log_score = emit.value.log_softmax(0).double() + coupled.log_potentials[0].cpu().unsqueeze(-1)
    paths = torch.cartesian_prod(*[torch.arange(len(start))] * L)  # [P, L]
    share = start[paths[:, 0]].double()
    for i in range(L):
        share = share * log_score[i].exp().sum(0)[paths[:, i]]
        if i:
            share = share * move[paths[:, i - 1], paths[:, i]]
    tokens = (log_score / temperature).softmax(1)  # [L, V, K]
    states = enumerate_states(model.circuit)  # [S, L]
    each = [tokens[i][states[:, i]][:, paths[:, i]] for i in range(L)]  # [S, P] each
    return torch.stack(each).prod(0) @ (share / share.sum())


@pytest.mark.parametrize("temperature", [0.0001, 0.4, 1.0, 2.5])
@pytest.mark.parametrize("k", [None, 2])
def test_the_joint_s_temperature_is_that_of_tokens_given_the_path(
    temperature: float, k: int | None
) -> None:
    model, coupled = world(0)
    few = coupled if k is None else coupled.top_k(k)
    wanted = tempered_tokens(model, coupled if k is None else spread(few), temperature)
    follow(draw(model, few, L, temperature=temperature), wanted)


def test_the_sharpened_joint_is_the_joint_of_sharpened_potentials() -> None:
    model, coupled = world(0)
    sharp = sharpened(coupled, 0.5)
    follow(
        draw(model, coupled, L, order="sharpened", temperature=0.5, sharp=sharp),
        joint(model, sharp),
    )
    greedy = draw(
        model, coupled, L, order="sharpened", temperature=0.0, sharp=sharpened(coupled, 0.0)
    )
    assert torch.equal(greedy.tokens, coupled.log_potentials.argmax(-1))  # type: ignore[union-attr]


def test_the_draft_is_the_most_probable_state_of_a_deterministic_circuit() -> None:
    rows = torch.randint(2, (60, 4))
    model = pf.compile(pf.chow_liu(rows), DEVICE, torch.float64)
    nothing = torch.zeros(5, 4, dtype=torch.long)
    soft = torch.randn(5, 4, 2, dtype=torch.float64)
    coupled = pf.Evidence(*(t.to(DEVICE) for t in (nothing, nothing == 0, soft)))
    found = draw(model, coupled, 4, order="mpe")
    weights = enumerate_weights(model.circuit, coupled)
    assert torch.equal(found.tokens.cpu(), weights.states[weights.log_weight.argmax(-1)])


def test_so_many_tokens_are_drawn_and_no_more() -> None:
    model, coupled = world(0)
    count = torch.arange(N, device=DEVICE) % (L + 1)
    found = draw(model, coupled, L, order="any_order", ranking="entropy", count=count)
    assert torch.equal(found.drawn.sum(-1), count)
    assert torch.equal(found.confidence > 0, found.drawn)
    assert (found.tokens[coupled.missing & ~found.drawn] == 0).all()


def test_confidence_is_that_before_temperature() -> None:
    model, coupled = world(1)
    marginals = model.marginals(coupled).exp()
    for temperature in (0.0, 0.5, 1.0):
        found = draw(model, coupled, L, temperature=temperature)
        wanted = marginals.gather(-1, found.tokens.unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(found.confidence, wanted)
        assert (found.confidence[:, 1] == 1).all()
    found = draw(model, coupled, L, order="any_order", temperature=0.0)
    product = found.confidence.prod(-1)  # the chain rule: the conditionals multiply to the joint
    place = (found.tokens.cpu() * torch.tensor([V * V, V, 1])).sum(-1)
    torch.testing.assert_close(product.cpu(), joint(model, coupled)[place])


def test_the_same_generator_gives_the_same_tokens() -> None:
    model, coupled = world(0)
    for order in ("joint", "sharpened", "any_order", "mpe"):
        first, again = (
            draw(
                model,
                coupled,
                L,
                order=order,  # type: ignore[arg-type]
                generator=torch.Generator(DEVICE).manual_seed(5),
                sharp=coupled,
            ).tokens
            for _ in range(2)
        )
        assert torch.equal(first, again)


def test_unknown_orders_and_negative_temperatures_are_refused() -> None:
    model, coupled = world(0)
    with pytest.raises(pf.SettingError, match="'sideways'"):
        draw(model, coupled, L, order="sideways")  # type: ignore[arg-type]
    with pytest.raises(GenerationError, match="`sharp`"):
        draw(model, coupled, L, order="sharpened")
    with pytest.raises(pf.SettingError, match="-1"):
        draw(model, coupled, L, temperature=-1.0)
