"""The likelihood bound against all orders of unmasking, and what the model really says."""

from collections.abc import Callable
from itertools import permutations, product
from math import log

import pytest
import torch
from torch import Tensor

import pcflow as pf
from pcflow_diffusion import CircuitHead, LogLinear
from pcflow_diffusion.errors import ShapeMismatch, TypeMismatch
from pcflow_diffusion.evaluate import likelihood_bound

V, P, T = 3, 2, 3
MASK = V
CONTEXT, ANSWER = torch.tensor([1, 0]), torch.tensor([2, 0, 2])
WAYS = [(None, None), (1, None), (2, None), (3, None), (None, 2), (2, 2)]  # steps, block length


def backbone(tokens: Tensor) -> Tensor:
    """Logits that depend on all tokens and their places."""
    generator = torch.Generator().manual_seed(5)
    reach = torch.randn(P + T, P + T, generator=generator, dtype=torch.float64)
    meant = torch.randn(V + 1, V, generator=generator, dtype=torch.float64)
    length = tokens.shape[1]
    return torch.einsum("ij,bjv->biv", reach[:length, :length], meant[tokens])


def head_of(coupling: str | LogLinear, length: int = 4, **settings: int) -> CircuitHead:
    circuit = pf.hmm(length, 3, pf.Categorical(V), generator=torch.Generator().manual_seed(1))
    return CircuitHead(pf.compile(circuit, dtype=torch.float64), MASK, coupling, **settings)


HEADS: dict[str, Callable[[], CircuitHead | None]] = {
    "none": lambda: None,
    "product": lambda: head_of("product"),
    "projection": lambda: head_of("projection", length=T),
    "log-linear": lambda: head_of(LogLinear(0.7, 0.4), length=9),
}


@torch.no_grad()
def log_joint(head: CircuitHead | None, row: Tensor, decided: list[int], stop: int) -> float:
    """Log-probability of the tokens at some masked places, by all values of the other ones."""
    logits, x, masked = backbone(row[None]), row[None], (row[:stop] == MASK).nonzero().flatten()
    rows = torch.tensor(list(product(range(V), repeat=len(masked))))
    full = row[:stop].repeat(len(rows), 1)
    full[:, masked] = rows
    if head is None:
        log_m = logits[0, :stop].log_softmax(-1).expand(len(rows), -1, -1)
        log_q = log_m.gather(-1, full.unsqueeze(-1)).squeeze(-1)[:, masked].sum(1)
    else:
        width = min(head.length, stop)
        window = slice(stop - width, stop)
        given = logits[:, window].expand(len(rows), -1, -1), x[:, window].expand(len(rows), -1)
        log_q = head.over(width).log_prob(*given, full[:, window])
    right = torch.cat([CONTEXT, ANSWER])
    agree = (full[:, decided] == right[decided]).all(dim=1)
    return float(log_q[agree].logsumexp(0))


def all_ways(head: CircuitHead | None, steps: int | None, span: range) -> list[list[float]]:
    """For every order of a block, the log-probability of what each step decides."""
    right, length = torch.cat([CONTEXT, ANSWER]), len(span)
    count = length if steps is None else min(steps, length)
    ways = []
    for order in permutations(span):
        row, parts = right.clone(), []
        row[span.start :] = MASK
        for step in range(count):
            decided = [place for r, place in enumerate(order) if r * count // length == step]
            parts.append(log_joint(head, row, decided, span.stop))
            row[decided] = right[decided]
        ways.append(parts)
    return ways


def spans(head: CircuitHead | None, block_length: int | None) -> list[range]:
    longest = T if head is None else min(T, head.length)
    length = block_length or longest
    return [range(start, min(start + length, P + T)) for start in range(P, P + T, length)]


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize(("steps", "block_length"), WAYS)
def test_the_bound_is_the_mean_over_all_orders_and_below_the_likelihood(
    name: str, steps: int | None, block_length: int | None
) -> None:
    head, exact, mean, variance, samples = HEADS[name](), 0.0, 0.0, 0.0, 3_000
    for span in spans(head, block_length):
        ways = torch.tensor(all_ways(head, steps, span), dtype=torch.float64)
        exact += float(ways.sum(1).logsumexp(0)) - log(len(ways))
        mean += float(ways.sum(1).mean())
        variance += float((ways * ways.shape[1]).var(correction=0)) / samples
    found = likelihood_bound(
        backbone, CONTEXT, ANSWER, MASK, head, steps=steps, block_length=block_length,
        samples=samples, batch_size=1_000, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert found == pytest.approx(mean, abs=5 * variance**0.5 + 1e-9)
    assert mean <= exact + 1e-9
    if steps == 1 and block_length is None:
        assert found == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize("name", ["product", "projection", "log-linear"])
@pytest.mark.parametrize("steps", [1, 2])
def test_likelihoods_of_all_answers_sum_to_no_more_than_one(name: str, steps: int) -> None:
    """Written jointly, in one step, they are a distribution; by bounds they are below one."""
    head = HEADS[name]()
    total = 0.0
    for answer in product(range(V), repeat=T):
        generator = torch.Generator().manual_seed(0)
        how = {"steps": steps, "samples": 200, "generator": generator}
        log_p = likelihood_bound(backbone, CONTEXT, torch.tensor(answer), MASK, head, **how)  # type: ignore[arg-type]
        total += 2.718281828459045**log_p
    assert total == pytest.approx(1.0, abs=1e-6) if steps == 1 else total < 1.02


@pytest.mark.parametrize("coupling", ["product", "ratio", "projection", LogLinear(0.6, 0.2)])
@pytest.mark.parametrize("top_k", [None, 2])
def test_what_is_not_asked_for_is_summed_out(coupling: str | LogLinear, top_k: int | None) -> None:
    head = head_of(coupling, top_k=top_k)  # type: ignore[arg-type]
    torch.manual_seed(2)
    logits, x = torch.randn(1, 4, V, dtype=torch.float64), torch.tensor([[MASK, 1, MASK, MASK]])
    rows = torch.tensor(list(product(range(V), repeat=4)))
    many = len(rows)
    each = head.log_prob(logits.expand(many, -1, -1), x.expand(many, -1), rows).exp()
    some = rows[:: V + 1]
    given = logits.expand(len(some), -1, -1), x.expand(len(some), -1), some
    for asked in ([0], [0, 3], [1, 2], [], [0, 2, 3], [1]):
        at = torch.zeros(len(some), 4, dtype=torch.bool)
        at[:, asked] = True
        read = [place for place in asked if place != 1]  # what is visible is not
        agree = (rows[:, None, read] == some[:, read]).all(-1)
        wanted = (each[:, None] * agree).sum(0) / V  # rows differ at the visible place, too
        found = head.log_prob(*given, at).exp()
        torch.testing.assert_close(found, wanted, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("steps", [None, 1, 2])
@pytest.mark.parametrize("impossible", ["context", "answer"])
def test_what_the_circuit_holds_impossible_has_no_probability(
    steps: int | None, impossible: str
) -> None:
    never = pf.hmm(4, 2, pf.Categorical(V), emission=[[0.0, 0.5, 0.5]] * 2)
    head = CircuitHead(pf.compile(never, dtype=torch.float64), MASK, "product")
    context, answer = (torch.tensor([what != impossible, 1]) for what in ("context", "answer"))
    bound = likelihood_bound(
        backbone, context.long(), answer.long(), MASK, head, steps=steps, samples=8
    )
    assert bound == -torch.inf


def test_an_answer_of_one_token_or_none() -> None:
    log_m = backbone(torch.tensor([[1, 0, MASK]]))[0, 2].log_softmax(-1)
    one = likelihood_bound(backbone, CONTEXT, ANSWER[:1], MASK)
    assert one == pytest.approx(float(log_m[2]))
    assert likelihood_bound(backbone, CONTEXT, ANSWER[:0], MASK) == 0.0
    assert likelihood_bound(backbone, CONTEXT[:0], ANSWER, MASK) < 0.0


def test_what_does_not_fit_is_refused() -> None:
    for wrong, error in (
        ({"answer": ANSWER[None]}, ShapeMismatch),
        ({"context": [1, 0]}, TypeMismatch),
        ({"samples": 0}, pf.SettingError),
        ({"steps": 0}, pf.SettingError),
        ({"block_length": 4}, pf.SettingError),
        ({"head": head_of("product", 2), "block_length": 3}, pf.SettingError),
    ):
        given = {"context": CONTEXT, "answer": ANSWER, "mask_token_id": MASK} | wrong
        with pytest.raises(error):
            likelihood_bound(backbone, **given)  # type: ignore[arg-type]
