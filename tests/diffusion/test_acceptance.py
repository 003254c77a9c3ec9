"""Speculative sampling: the text has the verifier's law, whatever drafted it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2
from torch import Tensor

from pcflow_diffusion.errors import ShapeMismatch, TokenOutOfRange
from pcflow_diffusion.multi_token import accept
from pcflow_diffusion.multi_token.acceptance import following, standing

V, N = 5, 3
DRAFTS = torch.cartesian_prod(*[torch.arange(V)] * N)  # [125, 3]


def conditionals(seed: int, depth: int, zeros: float) -> list[Tensor]:
    """Log-probabilities of the next token after every text of 0, 1, ... tokens, [V, ..., V]."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for length in range(depth):
        logits = 2 * torch.randn([V] * (length + 1), generator=generator, dtype=torch.float64)
        never = torch.rand(logits.shape, generator=generator) < zeros
        never[..., 0] = False  # some token is possible
        found.append(logits.masked_fill(never, -torch.inf).log_softmax(dim=-1))
    return found


def along(tables: list[Tensor], text: Tensor) -> Tensor:
    """Rows of all tables along texts [B, length], each given the tokens before, [B, tables, V]."""
    return torch.stack(
        [t[text[:, :i].unbind(1)].expand(len(text), V) for i, t in enumerate(tables)], 1
    )


def log_prob(tables: list[Tensor], text: Tensor) -> Tensor:
    """Of each token of texts [B, n], given those before, [B, n]."""
    rows = along(tables[: text.shape[1]], text)
    return rows.gather(-1, text.unsqueeze(-1)).squeeze(-1)


def law(draft_log_q: Tensor, next_log_q: Tensor, p: list[Tensor]) -> Tensor:
    """Of n + 1 tokens: every draft, every place where it may end, and the model behind; enumerated.

    Drafts are `DRAFTS`, with log q of each token [125, n], and of all next tokens [125, n, V].
    """
    verifier = along(p, DRAFTS)  # [125, n + 1, V]
    stands = standing(DRAFTS, draft_log_q, verifier)  # [125, n]
    total = torch.zeros([V] * (N + 1), dtype=torch.float64)
    reached = draft_log_q.sum(dim=-1).exp()  # [125]
    for kept in range(N + 1):
        every = torch.full((len(DRAFTS),), kept)
        row = next_log_q[:, min(kept, N - 1)]
        follows = following(every, lambda position, row=row: row, verifier)  # [125, V]
        ends = reached * (1 - stands[:, kept] if kept < N else 1.0)
        begun = torch.zeros([V] * (kept + 1), dtype=torch.float64)
        places = (
            *(DRAFTS[:, i, None].expand(-1, V) for i in range(kept)),
            torch.arange(V).expand(len(DRAFTS), V),
        )
        begun.index_put_(places, ends.unsqueeze(-1) * follows, accumulate=True)
        for table in p[kept + 1 :]:
            begun = begun.unsqueeze(-1) * table.exp()
        total += begun
        reached = reached * (stands[:, kept] if kept < N else 0.0)
    return total


def model_law(p: list[Tensor]) -> Tensor:
    found = torch.ones((), dtype=torch.float64)
    for table in p:
        found = found.unsqueeze(-1) * table.exp()
    return found


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


def fits(texts: Tensor, law: Tensor) -> bool:
    """Whether texts [B, n] may be draws from a law [V, ..., V]: chi-square at one in a million."""
    strides = torch.tensor([law.stride(i) for i in range(law.dim())])
    seen = torch.bincount(texts @ strides, minlength=law.numel()).double()
    wanted = law.flatten() * len(texts)
    rare = wanted < 5
    seen = torch.cat([seen[~rare], seen[rare].sum()[None]])
    wanted = torch.cat([wanted[~rare], wanted[rare].sum()[None]])
    possible = wanted > 0
    if bool(seen[~possible].any()):
        return False
    statistic = ((seen - wanted).square() / wanted.where(possible, 1.0))[possible].sum()
    return bool(chi2.sf(float(statistic), int(possible.sum()) - 1) > 1e-6)


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
    with pytest.raises(TokenOutOfRange):
        accept(draft + 1, log_q, rows, log_p)
