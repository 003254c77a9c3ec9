"""What a backbone says as one value: what it is, and that nobody goes over it twice.

Legend: B batch, L positions, V tokens, k listed tokens.
"""

from collections import Counter
from typing import Any

import pytest
import torch
from device import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import of_fifty
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import pcflow as pf
from pcflow_diffusion import (
    CircuitHead,
    Decoding,
    LogLinear,
    Marginals,
    Projection,
    generate,
    infill,
)
from pcflow_diffusion.decode import drawing
from pcflow_diffusion.errors import LogitsError, ShapeMismatch, TypeMismatch
from pcflow_diffusion.head import Draw, marginals

B, L, V = 3, 4, 60
SEEDS = st.integers(0, 10**6)


class Case:
    """Logits, some of them -inf, of tokens with masks."""

    def __init__(self, seed: int, tokens: int, mask: int) -> None:
        torch.manual_seed(seed)
        self.mask = mask
        self.logits = 2 * torch.randn(B, L, tokens, dtype=torch.float64).to(DEVICE)
        self.logits[torch.rand(B, L, tokens).to(DEVICE) < 0.2] = -torch.inf
        self.logits[..., (mask + 1) % tokens] = 0.1  # so that something is possible
        visible = torch.randint(tokens, (B, L)).to(DEVICE)
        self.x = torch.where(torch.rand(B, L).to(DEVICE) < 0.5, mask, visible)

    @property
    def masked(self) -> Tensor:
        return self.x == self.mask


def spread(said: Marginals) -> Tensor:
    """Log-probabilities of all tokens [B, L, V]."""
    if said.listed is None:
        return said.log_m
    nowhere = said.log_m.new_full((*said.tokens.shape, said.vocabulary_size), -torch.inf)
    return nowhere.scatter(-1, said.listed, said.log_m)


@settings(max_examples=of_fifty(40))
@given(SEEDS, st.integers(2, 7), st.integers(0, 8), st.sampled_from([None, 1, 2, 5]))
def test_it_is_the_softmax_over_what_is_possible(
    seed: int, tokens: int, mask: int, k: int | None
) -> None:
    case = Case(seed, tokens, mask)
    said = Marginals.of(case.logits, case.x, mask, top_k=k)
    wanted = case.logits.clone()
    if mask < tokens:
        wanted[..., mask] = -torch.inf
    if k is not None and k < tokens:
        least = wanted.sort(dim=-1, descending=True).values[..., k - 1 : k]
        wanted = wanted.masked_fill(wanted < least, -torch.inf)
    masked = case.masked
    assert torch.equal(said.masked, masked)
    assert torch.equal(said.tokens, case.x.masked_fill(masked, 0))
    torch.testing.assert_close(spread(said)[masked], wanted.log_softmax(-1)[masked])
    later = Marginals.of(case.logits, case.x, mask).top_k(k)
    torch.testing.assert_close(spread(later)[masked], spread(said)[masked])


@settings(max_examples=of_fifty(30))
@given(SEEDS, st.sampled_from([None, 3]), st.sampled_from([0.0, 0.4, 1.0, 2.0]))
def test_what_follows_from_it(seed: int, k: int | None, temperature: float) -> None:
    case = Case(seed, 6, 6)
    said = Marginals.of(case.logits, case.x, 6, top_k=k)
    tempered = spread(said.tempered(temperature)).exp()
    assert torch.allclose(tempered.sum(-1), torch.ones(()).to(DEVICE).double())
    if temperature > 0:
        wanted = (spread(said) / temperature).softmax(-1)
        torch.testing.assert_close(tempered, wanted)
    tokens = said.draw(temperature)
    assert bool((tempered.gather(-1, tokens.unsqueeze(-1)) > 0).all())
    chosen = spread(said).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    assert torch.equal(said.log_prob(tokens), chosen)
    few = spread(said.top_p(0.6)).exp()
    ordered = spread(said).add(said.log_listed.unsqueeze(-1)).exp()
    ordered = ordered.sort(dim=-1, descending=True).values
    count = ((ordered.cumsum(-1) - ordered < 0.6) & (ordered > 0)).sum(-1)
    assert torch.equal((few > 0).sum(-1), count)
    rows, places = torch.tensor([[2], [0]]).to(DEVICE), torch.tensor([[0, 2], [1, 2]]).to(DEVICE)
    some = said.at(rows, places)
    assert torch.equal(some.tokens, said.tokens[rows, places])
    assert torch.equal(spread(some), spread(said)[rows, places])


@given(SEEDS, st.sampled_from([0.3, 0.8, 1.0]), st.sampled_from([0.01, 1.0, 4.0]))
def test_of_many_tokens_no_more_are_sorted_than_hold_the_mass(
    seed: int, p: float, sharpness: float
) -> None:
    case = Case(seed, 64, 64)
    said = Marginals.of(sharpness * case.logits, case.x, 64)
    masked, wanted = said.masked, spread(said.top_p(p))
    held = said.log_m.exp().sort(dim=-1, descending=True).values.cumsum(dim=-1)[masked]
    enough = [k for k in (2, 16) if bool((held[:, k - 1] >= p).all())]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(marginals, "LARGE", 64)
        patch.setattr(marginals, "MOST", 2)
        few = said.top_p(p)
    torch.testing.assert_close(spread(few)[masked].exp(), wanted[masked].exp())
    assert few.log_m.shape[-1] == [*enough, 64][0]


def test_suppressed_tokens_are_impossible_listed_or_not() -> None:
    logits, x = torch.arange(6.0).to(DEVICE).expand(1, 2, 6), torch.full((1, 2), 5).to(DEVICE)
    for k, left in ((None, [0, 1, 3]), (2, [1, 3])):
        said = Marginals.of(logits, x, 5, suppress=(2, 4, 9, -1), top_k=k)
        assert (spread(said)[0, 0] > -torch.inf).nonzero().flatten().tolist() == left
        assert spread(said)[0, 0].exp().sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize("k", [None, 2])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_masked_position_needs_a_distribution(k: int | None, value: float) -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        logits = torch.zeros(3, 4, 40, dtype=dtype).to(DEVICE)
        logits[1, 2] = value
        with pytest.raises(LogitsError, match="row 1, position 2") as found:
            Marginals.of(logits, torch.full((3, 4), 40).to(DEVICE), 40, top_k=k)
        assert (found.value.row, found.value.position) == (1, 2)
        visible = torch.full((3, 4), 40).to(DEVICE)
        visible[1, 2] = 0
        said = Marginals.of(logits, visible, 40, top_k=k)
        assert bool(said.log_m.isfinite().all())


def test_what_is_no_logits_of_the_tokens_is_refused() -> None:
    x, logits = torch.zeros(2, 3, dtype=torch.long).to(DEVICE), torch.zeros(2, 3, 4).to(DEVICE)
    for wrong, kind in (
        (logits[:, :2], ShapeMismatch),
        (logits[..., :0], ShapeMismatch),
        (logits[0], ShapeMismatch),
        (logits.long(), TypeMismatch),
        (logits.to(torch.complex64), TypeMismatch),
        (logits.to("meta"), TypeMismatch),
        ([1.0], TypeMismatch),
    ):
        with pytest.raises(kind, match="logits"):
            Marginals.of(wrong, x, 4)  # type: ignore[arg-type]
    for wrong, kind in (
        (x[0], ShapeMismatch),
        (x.float(), TypeMismatch),
        (x.to(torch.uint8), TypeMismatch),
    ):
        with pytest.raises(kind, match="x must be"):
            Marginals.of(logits, wrong, 4)
    with pytest.raises(TypeMismatch, match=r"mask_token_id must be a whole number, got 2\.0"):
        Marginals.of(logits, x, 2.0)  # type: ignore[arg-type]


KINDS = {
    "_log_softmax": "normalised",
    "_softmax": "normalised",
    "logsumexp": "normalised",
    "index_fill": "rid of the mask",
    "masked_fill": "rid of what is visible",
    "where": "rid of what is visible",
    "isnan": "searched",
    "isinf": "searched",
    "isfinite": "searched",
}
STILL = {
    "_to_copy",
    "clone",
    "alias",
    "detach",
    "view",
    "_unsafe_view",
    "index",
    "mul",
    "div",
    "sub",
}


class Passes(TorchDispatchMode):
    """Counts who goes over what the backbone said, by kind of operation.

    It is followed through what normalises, fills, copies and scales it, while it is as large.
    """

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.size, self.family, self.found = logits.numel(), [logits], Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(self.knows(given) for given in args):
            name = func.overloadpacket.__name__
            name = name if name in KINDS else name.rstrip("_")
            if name in KINDS:
                self.found[KINDS[name]] += 1
            if name in KINDS or name in STILL:
                self.family.append(result)
        return result

    def knows(self, given: object) -> bool:
        if not isinstance(given, Tensor) or given.numel() < self.size:
            return False
        place = given.untyped_storage().data_ptr()
        return any(t.untyped_storage().data_ptr() == place for t in self.family)


def model_of(length: int) -> pf.CompiledCircuit:
    return pf.compile(pf.hmm(length, 3, pf.Categorical(V)), DEVICE)


HEADS = {
    "none": None,
    "product": CircuitHead(model_of(L), V, "product"),
    "ratio": CircuitHead(model_of(L), V, "ratio"),
    "log-linear": CircuitHead(model_of(L), V, LogLinear(0.8, 0.4)),
    "projection": CircuitHead(model_of(L), V, "projection"),
    "top k": CircuitHead(model_of(L), V, "projection", top_k=5),
    "longer": CircuitHead(model_of(L + 1), V, Projection()),
    "windows": CircuitHead(model_of(L - 1), V, "product"),
}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("order", ["joint", "any_order", "mpe"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("mask", [V, 7])
def test_generation_goes_over_what_the_backbone_says_once(
    name: str, order: str, temperature: float, mask: int
) -> None:
    head, logits = HEADS[name], torch.randn(B, L, V).to(DEVICE)
    if head is not None:
        head.mask_token_id = mask
    how = Decoding(temperature, order=order)  # type: ignore[arg-type]
    with Passes(logits) as passes:
        generate(
            lambda _: logits,
            torch.zeros(B, 0, dtype=torch.long).to(DEVICE),
            head,
            steps=1,
            gen_length=L,
            block_length=L,
            decoding=how,
            mask_token_id=mask,
        )
    whole = name != "top k"  # of which only a few are taken, and a sum is asked
    assert passes.found["normalised"] == whole
    assert passes.found["rid of the mask"] == (whole and mask < V)
    assert passes.found["rid of what is visible"] == 0  # nothing is
    assert passes.found["searched"] == 0  # normalised numbers tell at one place


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_only_rows_that_are_not_coupled_are_drawn_and_ranked_by_themselves(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows with half of their tokens are coupled, those with none are not."""
    alone: list[int] = []
    draw = drawing.independent

    def independent(said: Marginals, *more: Any) -> Draw:
        alone.append(len(said.tokens))
        return draw(said, *more)

    monkeypatch.setattr(drawing, "independent", independent)
    x = torch.full((8, L), V).to(DEVICE)
    x[: int(8 * share), : L // 2] = 0
    how, head = Decoding(temperature=1.0, gamma=0.6, ranking="margin"), CircuitHead(model_of(L), V)
    found = infill(lambda _: torch.zeros(8, L, V).to(DEVICE), x, head, steps=1, decoding=how)
    assert alone == [8 - int(8 * share)] * (share < 1)
    assert bool((found < V).all())
