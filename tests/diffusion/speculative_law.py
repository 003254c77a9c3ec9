"""The law of text that is drafted and verified: by enumeration, and whether draws have it.

Legend: V tokens, n drafted ones, B texts.
"""

import torch
from scipy.stats import chi2
from torch import Tensor

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
