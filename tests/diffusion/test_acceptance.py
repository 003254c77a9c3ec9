"""Speculative sampling: the text has the verifier's law, whatever drafted it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from speculative_law import DRAFTS, N, V, along, conditionals, fits, law, log_prob, model_law
from torch import Tensor

from pcflow_diffusion.errors import ShapeMismatch, TokenOutOfRange, TypeMismatch
from pcflow_diffusion.multi_token import accept


@given(seed=st.integers(0, 10**6), zeros=st.sampled_from([0.0, 0.3]))
def test_the_law_is_the_models_by_enumeration(seed: int, zeros: float) -> None:
    p, q = conditionals(seed, N + 1, zeros), conditionals(seed + 1, N, zeros)
    found = law(log_prob(q, DRAFTS), along(q, DRAFTS), p)
    torch.testing.assert_close(found, model_law(p), rtol=0, atol=1e-12)


def test_the_law_of_the_batch_is_the_models() -> None:
    p, q, rows = conditionals(0, N + 1, 0.2), conditionals(1, N, 0.2), 60_000
    generator = torch.Generator().manual_seed(2)
    draft = torch.empty(rows, 0, dtype=torch.long)
    for i in range(N):
        next_q = along(q[: i + 1], draft)[:, i].exp()
        draft = torch.cat([draft, torch.multinomial(next_q, 1, generator=generator)], dim=1)
    row_q, log_p = along(q, draft), along(p, draft)
    every = torch.arange(rows)
    kept, token = accept(draft, log_prob(q, draft), lambda at: row_q[every, at], log_p, generator)
    assert kept.unique().tolist() == [0, 1, 2, 3]
    text = torch.cat([draft, draft[:, :1]], dim=1)
    text[every, kept] = token
    for i in range(1, N + 1):  # the model goes on behind
        more = torch.multinomial(along(p[: i + 1], text[:, :i])[:, i].exp(), 1, generator=generator)
        text[:, i] = torch.where(i <= kept, text[:, i], more.squeeze(1))
    assert fits(text, model_law(p))


def test_chi_square_notices_another_law() -> None:
    generator = torch.Generator().manual_seed(0)
    law = torch.full((V, V), 1 / V**2)
    texts = torch.randint(V, (20_000, 2), generator=generator)
    assert fits(texts, law)
    texts[:1_000] = 0
    assert not fits(texts, law)


def test_a_draft_of_the_model_itself_stands() -> None:
    p = conditionals(3, N + 1, 0.0)
    row_q = along(p, DRAFTS)
    every = torch.arange(len(DRAFTS))
    kept, _ = accept(DRAFTS, log_prob(p[:N], DRAFTS), lambda at: row_q[every, at], row_q)
    assert bool((kept == N).all())


def test_the_next_row_is_asked_for_where_the_draft_ends() -> None:
    p = torch.tensor([[[0.0, 1.0]] * 4, [[0.5, 0.5]] * 4]).log()
    asked = []

    def next_log_q(position: Tensor) -> Tensor:
        asked.append(position.tolist())
        return torch.full((2, 2), math.log(0.5))

    draft = torch.tensor([[1, 0, 1], [0, 1, 0]])
    kept, token = accept(draft, torch.full((2, 3), math.log(0.5)), next_log_q, p)
    assert kept.tolist() == [1, 3]
    assert asked == [[1, 2]]  # the second row's does not matter
    assert int(token[0]) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_make_chances_coarse(dtype: torch.dtype) -> None:
    """Uniform numbers of half precision are below 1 / 512 twice as often as they should be."""
    rows, small = 300_000, 2.0**-9
    p = torch.tensor([small, 1 - small, 0.0]).log().to(dtype).expand(rows, 2, 3)
    q = torch.tensor([1.0, 0.0, 0.0]).log().to(dtype).expand(rows, 3)
    draft, generator = torch.zeros(rows, 1, dtype=torch.long), torch.Generator().manual_seed(0)
    kept, token = accept(draft, q[:, :1], lambda position: q, p, generator)
    spread = (small / rows) ** 0.5
    assert abs(float(kept.double().mean()) - small) < 5 * spread
    assert abs(float((token[kept == 1] == 0).double().mean()) - small) < 0.02
    assert bool((token[kept == 0] == 1).all())


def test_what_does_not_fit_is_refused() -> None:
    draft, log_q, log_p = torch.tensor([[0, 1]]), torch.zeros(1, 2), torch.zeros(1, 3, 2)

    def rows(position: Tensor) -> Tensor:
        return torch.zeros(1, 2)

    with pytest.raises(ShapeMismatch, match=r"log_q must be \[1, 2\]"):
        accept(draft, log_q[:, :1], rows, log_p)
    with pytest.raises(ShapeMismatch, match=r"verifier_log_p must be \[1, 3, V\]"):
        accept(draft, log_q, rows, log_p[:, :2])
    with pytest.raises(ShapeMismatch, match="at least one token"):
        accept(draft[:, :0], log_q[:, :0], rows, log_p[:, :1])
    with pytest.raises(ShapeMismatch, match=r"next_log_q gives must be \[1, 2\]"):
        accept(draft, log_q, lambda position: torch.zeros(2), log_p)
    for name in ("log_q", "verifier_log_p"):  # which no comparison would notice
        given = {"log_q": log_q, "verifier_log_p": log_p}
        with pytest.raises(TypeMismatch, match="no number"):
            accept(draft, next_log_q=rows, **(given | {name: given[name] * torch.nan}))
    with pytest.raises(TypeMismatch, match="next_log_q gives must be logarithms"):
        accept(draft, log_q, lambda position: torch.full((1, 2), torch.nan), log_p)
    with pytest.raises(TypeMismatch, match="must be distributions"):
        accept(draft, log_q, rows, torch.full_like(log_p, -torch.inf))
    with pytest.raises(TokenOutOfRange):
        accept(draft + 1, log_q, rows, log_p)
