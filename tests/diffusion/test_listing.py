"""What a head lists of a large vocabulary by itself: as few tokens as it takes, and no more."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

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
    Coupling,
    Decoding,
    LogLinear,
    Marginals,
    Modulation,
    Projection,
    infill,
    store_logits,
)
from pcflow_diffusion.errors import LogitsError
from pcflow_diffusion.head import Order, listing, marginals
from pcflow_diffusion.head.coupling import posterior
from pcflow_diffusion.head.listing import AT_ONCE, LARGE, most_listed


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    """Vocabularies are large here that are quick to test."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (listing, marginals):
            patch.setattr(module, "LARGE", V)
        yield


V, L, B, MASK = 4096, 4, 8, 4096
MOST, LEFT_OUT = 1024, 1e-4
SEEDS = st.integers(0, 2**31 - 1)
COUPLINGS: dict[str, Coupling] = {
    "product": LogLinear(),
    "log-linear": LogLinear(0.8, 0.4),
    "by share": LogLinear((0.9, 0.7), (0.2, 0.0)),
    "ratio": LogLinear(1.0, 1.0),
    "projection": Projection(),
    "pooled": Projection(pool=(0.8, 0.3)),
}
MODEL = pf.compile(pf.hmm(L, 3, pf.Categorical(V)), DEVICE, torch.float32)


def logits_of(seed: int, rows: int = B, length: int = L, size: int = V) -> Tensor:
    """As sure as can be in some places, knowing nothing in others."""
    generator = torch.Generator().manual_seed(seed)
    sharp = 12 * torch.rand(rows, length, 1, generator=generator)
    return (sharp * torch.randn(rows, length, size, generator=generator)).to(DEVICE)


def masked(rows: int = B, length: int = L) -> Tensor:
    x = torch.full((rows, length), MASK)
    x[:, 1] = 7
    return x.to(DEVICE)


@settings(max_examples=of_fifty(10))
@given(SEEDS, st.sampled_from([MASK, 5]), st.sampled_from([torch.float32, torch.bfloat16]))
def test_a_position_lists_the_fewest_tokens_that_hold_all_but_a_trifle(
    seed: int, mask: int, dtype: torch.dtype
) -> None:
    logits = logits_of(seed, 3, 4).to(dtype)
    said = Marginals.of(logits, torch.full((3, 4), mask, device=DEVICE), mask, top_k="auto")
    m = logits.double()
    if mask < V:
        m[..., mask] = -torch.inf
    m = m.softmax(-1)
    listed = m.gather(-1, said.listed)
    kept = said.log_m > -torch.inf
    count, held = kept.sum(-1), (listed * kept).sum(-1)
    assert ((1 - held <= 1.05 * LEFT_OUT) | (count >= MOST)).all()
    least = listed.masked_fill(~kept, torch.inf).amin(-1)
    ties = (listed == least.unsqueeze(-1)).sum(-1)  # equal ones come together
    assert (1 - held + ties * least >= 0.95 * LEFT_OUT).all() and (count <= MOST).all()
    assert (m > least.unsqueeze(-1)).sum(-1).le(count).all()  # none that is more probable is out
    torch.testing.assert_close(said.left_out.double(), 1 - held, rtol=1e-3, atol=1e-5)
    shares = (listed / held.unsqueeze(-1))[kept]
    torch.testing.assert_close(said.log_m.double().exp()[kept], shares, rtol=1e-4, atol=1e-6)
    assert count.amin() < MOST / 4 or count.amax() == said.log_m.shape[-1]


@pytest.mark.parametrize("name", sorted(COUPLINGS))
def test_what_a_row_is_told_does_not_hang_on_the_rest_of_the_batch(name: str) -> None:
    head, logits, x = CircuitHead(MODEL, MASK, COUPLINGS[name]), logits_of(0), masked()
    x0 = head.sample(logits, x, order="mpe").tokens
    rare = torch.randint(V, (B, L), generator=torch.Generator().manual_seed(1)).to(DEVICE)
    for row in (0, 3):
        one = logits[row : row + 1], x[row : row + 1]
        assert torch.equal(head.sample(*one, order="mpe").tokens[0], x0[row])
        for tokens in (x0, rare):
            alone = head.log_prob(*one, tokens[row : row + 1])[0]
            torch.testing.assert_close(
                alone, head.log_prob(logits, x, tokens)[row], rtol=1e-5, atol=1e-4
            )
        torch.testing.assert_close(head.left_out(*one)[0], head.left_out(logits, x)[row])


@pytest.mark.parametrize("top_k", ["auto", 50])
@pytest.mark.parametrize("name", sorted(COUPLINGS))
def test_every_token_has_a_probability_and_all_of_them_one(name: str, top_k: Any) -> None:
    model = pf.compile(pf.hmm(2, 3, pf.Categorical(V)), DEVICE, torch.float64)
    head = CircuitHead(model, MASK, COUPLINGS[name], top_k)
    logits = logits_of(3, 1, 2).double()
    logits[:, 0] *= 4  # one that is sure, and one that leaves something out
    x, at = torch.full((1, 2), MASK, device=DEVICE), torch.tensor([[False, True]], device=DEVICE)
    logits[:, 1] /= 3
    assert 0 < head.left_out(logits, x)[0, 1] < 1
    marginals = head(logits, x)
    assert (marginals.exp().sum(-1) - 1).abs().max() < 1e-9
    assert marginals.isfinite().all()
    some = marginals[0, 1].argsort(descending=True)[::97]
    n, x0 = len(some), torch.stack([torch.zeros_like(some), some], dim=-1)
    every = head.log_prob(logits.expand(n, 2, V), x.expand(n, 2), x0, at.expand(n, 2))
    torch.testing.assert_close(every, marginals[0, 1, some], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("top_k", ["auto", 3, 30])
def test_controls_may_have_more_values_than_tokens_are_listed(top_k: Any) -> None:
    model = pf.compile(pf.expose_latents(pf.hmm(2, 20, pf.Categorical(V))), DEVICE, torch.float64)
    modulation = Modulation(V, 20, width=8).to(DEVICE, torch.float64)
    head = CircuitHead(model, MASK, "product", top_k, modulation)
    logits, x = 9 * logits_of(11, 1, 2).double(), torch.full((1, 2), MASK, device=DEVICE)
    marginals = head(logits, x)[0, 1]
    assert abs(marginals.exp().sum().item() - 1) < 1e-9
    x0 = torch.stack([torch.zeros(50).long(), marginals.cpu().topk(50).indices], dim=-1).to(DEVICE)
    at = torch.tensor([[False, True]], device=DEVICE).expand(50, 2)
    every = head.log_prob(logits.expand(50, 2, V), x.expand(50, 2), x0, at)
    torch.testing.assert_close(every, marginals[x0[:, 1]], rtol=1e-7, atol=1e-7)


def test_the_mask_among_the_tokens_has_no_probability() -> None:
    head = CircuitHead(MODEL, 5, "product")
    logits, x = logits_of(4, 1), torch.full((1, L), 5, device=DEVICE)
    assert head.log_prob(logits, x, x).item() == -torch.inf
    assert (head(logits, x)[..., 5] == -torch.inf).all()


def test_what_is_all_there_is_leaves_nothing_out() -> None:
    head, x = CircuitHead(MODEL, MASK, "product"), masked()
    few = pf.Potentials.of(logits_of(5)).top_k(20)
    assert (head.left_out(few, x) == 0).all()
    outside = torch.full((B, L), V - 1, device=DEVICE)
    outside[(few.at(outside.unsqueeze(-1)) > -torch.inf).squeeze(-1)] = 0
    assert (head.log_prob(few, x, outside) == -torch.inf).all()


def test_the_backbone_learns_of_tokens_that_are_not_listed() -> None:
    head, x = CircuitHead(MODEL, MASK, "product", top_k=3), masked(1)
    logits = logits_of(6, 1).requires_grad_()
    head.log_prob(logits, x, torch.full((1, L), V - 1, device=DEVICE)).sum().backward()
    assert logits.grad is not None and (logits.grad[0, 0, V - 1] > 0).all()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("mask", [MASK, 5])
@pytest.mark.parametrize("visible", [torch.nan, torch.inf, -torch.inf])
def test_whatever_is_said_of_a_visible_token_teaches_the_backbone_nothing(
    visible: float, mask: int
) -> None:
    head, x = CircuitHead(MODEL, mask, "product", top_k=3), torch.full((1, L), mask, device=DEVICE)
    x[:, 1] = 7
    logits = logits_of(6, 1)
    gradients = []
    for said in (0.0, visible):
        logits[:, 1] = said
        own = logits.clone().requires_grad_()
        head.log_prob(own, x, torch.full((1, L), V - 1, device=DEVICE)).sum().backward()
        assert own.grad is not None and (own.grad[:, 1] == 0).all()
        gradients.append(own.grad)
    assert torch.equal(*gradients) and gradients[0].isfinite().all() and gradients[0].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("number", [torch.nan, torch.inf])
@pytest.mark.parametrize("top_k", ["auto", 50, 3000, None])
def test_a_number_that_is_none_is_refused_wherever_it_stands(
    top_k: Any, number: float, dtype: torch.dtype
) -> None:
    for size in (V, 20_000):
        for place in (0, 123, size - 1):
            logits = logits_of(10, 1, 2, size).to(dtype)
            logits[0, 1, place] = number
            with pytest.raises(LogitsError, match=f"hold {number}"):
                Marginals.of(logits, torch.full((1, 2), size, device=DEVICE), size, top_k=top_k)


@settings(max_examples=of_fifty(25))
@given(SEEDS, st.integers(1, 700), st.integers(1, 900))
def test_numbers_that_are_none_are_the_largest(seed: int, k: int, none: int) -> None:
    x = logits_of(seed, 1, 2, 20_000)
    at = torch.randperm(20_000, generator=torch.Generator().manual_seed(seed))[:none]
    x[0, 1, at.to(DEVICE)] = torch.nan
    log = pf.Potentials.of(x).top_k(k).log
    assert log.isnan().sum(-1).tolist() == [[0, min(k, none)]]
    wanted = x[0, 1].nan_to_num(nan=-torch.inf).topk(max(1, k - none)).values.sum()
    assert k <= none or log[0, 1].nansum().isclose(wanted)


@settings(max_examples=of_fifty(25))
@given(SEEDS, st.integers(1, 700), st.booleans())
def test_the_largest_of_long_lines(seed: int, k: int, even: bool) -> None:
    x = logits_of(seed, 2, 2, 20_000)
    x = x.round() if even else x
    top = pf.Potentials.of(x).top_k(k)
    assert top.categories is not None and (top.categories.diff(dim=-1) > 0).all()
    wanted = x.sort(dim=-1, descending=True).values[..., :k]
    assert torch.equal(top.log.sort(dim=-1, descending=True).values, wanted)


def test_of_a_line_that_is_no_numbers_something_is_taken() -> None:
    x = torch.full((1, 1, 20_000), torch.nan)
    assert pf.Potentials.of(x).top_k(9).log.shape == (1, 1, 9)


def test_small_vocabularies_are_not_listed() -> None:
    assert LARGE == 16_384 and most_listed("auto", V - 1) is None
    model = pf.compile(pf.hmm(3, 2, pf.Categorical(4095)), DEVICE)
    head = CircuitHead(model, 4095, "product")
    logits, x = torch.randn(2, 3, 4095, device=DEVICE), torch.full((2, 3), 4095, device=DEVICE)
    assert head.couple(logits, x).categories is None and "lists all tokens" in repr(head)
    whole = CircuitHead(model, 4095, "product", top_k=None)
    draws = [
        h.sample(logits, x, generator=torch.Generator(DEVICE).manual_seed(0)) for h in (head, whole)
    ]
    assert torch.equal(draws[0].tokens, draws[1].tokens)


def test_it_says_what_it_lists() -> None:
    for top_k, says in (("auto", "up to 1,024"), (300, "lists 300"), (None, "all tokens")):
        found = repr(CircuitHead(MODEL, MASK, top_k=top_k))  # type: ignore[arg-type]
        assert says in found and f"top_k={top_k!r}" in found and "4,096 tokens" in found
    with pytest.raises(pf.SettingError, match="top_k"):
        CircuitHead(MODEL, MASK, top_k="all")  # type: ignore[arg-type]


def test_files_keep_it_and_those_of_before_take_all_tokens(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    CircuitHead(MODEL, MASK, "product").save(path)
    assert CircuitHead.load(path).top_k == "auto"
    CircuitHead(MODEL, MASK, "product", top_k=None).save(path)  # what the default used to be
    assert b'\\"top_k\\": null' in path.read_bytes()
    assert CircuitHead.load(path).top_k is None


class Largest(TorchDispatchMode):
    """Sees the largest tensor that is made; views are none."""

    def __init__(self) -> None:
        super().__init__()
        self.found, self.by = 0, ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        told = {t.untyped_storage().data_ptr() for t in args if isinstance(t, Tensor)}
        for tensor in result if isinstance(result, tuple | list) else [result]:
            made = isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in told
            if made and tensor.numel() > self.found:
                self.found, self.by = tensor.numel(), str(func)
        return result


Way = Callable[[CircuitHead, Tensor | pf.Potentials, Tensor, Tensor], object]


def conditional(head: CircuitHead, logits: Tensor | pf.Potentials, x: Tensor, x0: Tensor) -> object:
    rows = head.conditional(logits, x, x0)
    return pf.Anemone(0.1).start(head.model).step([rows], 0.0)


def drawn(order: Order) -> Way:
    return lambda head, logits, x, x0: head.sample(logits, x, order=order, temperature=0.8)


WAYS: dict[str, Way] = {
    "couple": lambda head, logits, x, x0: head.couple(logits, x),
    "log_prob": lambda head, logits, x, x0: head.log_prob(logits, x, x0),
    "left_out": lambda head, logits, x, x0: head.left_out(logits, x),
    "learn": conditional,
    "fit_coupling": lambda head, logits, x, x0: head.fit_coupling(logits, x, x0),
    "choose_coupling": lambda head, logits, x, x0: head.choose_coupling(logits, x, x0),
    "for drawing": lambda head, logits, x, x0: head.choose_coupling(logits, x, x0, for_="drawing"),
    **{f"sample {order}": drawn(order) for order in get_args(Order)},
}


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is gone over at a time is less than one position has, as it may be."""
    monkeypatch.setitem(AT_ONCE, DEVICE.type, V // 2)


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("name", ["product", "ratio", "projection"])
@pytest.mark.parametrize("way", WAYS)
def test_after_the_backbone_nothing_is_as_large_as_its_logits(way: str, name: str) -> None:
    model = pf.compile(pf.hmm(L, 2, pf.Categorical(V)), DEVICE, torch.float32)
    head, logits, x = CircuitHead(model, MASK, COUPLINGS[name]), logits_of(7), masked()
    x0 = logits.argmax(-1)
    x0[0] = 11  # not listed everywhere
    for said in (logits, pf.Potentials.of(logits).top_k(30)):
        with Largest() as seen:
            WAYS[way](head, said, x, x0)
        assert 0 < seen.found < B * L * V, seen.by


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize(
    "how", [{}, {"top_p": 0.9}, {"threshold": 0.9}, {"ranking": "margin"}, {"ranking": "entropy"}]
)
@pytest.mark.parametrize("length", [L, L - 1])
def test_nor_while_text_is_written(how: dict[str, Any], length: int) -> None:
    head, logits, x = CircuitHead(MODEL, MASK, "product"), logits_of(7), masked()
    with Largest() as seen:
        infill(lambda _: logits, x, head.over(length), steps=1, decoding=Decoding(1.0, **how))
    assert 0 < seen.found < B * L * V, seen.by


@pytest.mark.usefixtures("small_steps")
def test_nor_where_a_circuit_is_no_tree() -> None:
    regions = pf.structure.random_binary_tree(L, replicas=2)
    model = pf.compile(pf.build_circuit(regions, pf.Categorical(V), 2), DEVICE)
    head, logits, x = CircuitHead(model, MASK, "projection"), logits_of(8), masked()
    with Largest() as seen:
        head.sample(logits, x)
    assert 0 < seen.found < B * L * V, seen.by


@pytest.mark.usefixtures("small_steps")
def test_nor_where_the_backbone_steers() -> None:
    circuit = pf.expose_latents(pf.hmm(L, 20, pf.Categorical(V)))
    model, modulation = pf.compile(circuit, DEVICE), Modulation(V, 20, width=8).to(DEVICE)
    head = CircuitHead(model, MASK, "product", modulation=modulation)
    logits, x = 90 * logits_of(9), masked()  # fewer are listed than a control has values
    with Largest() as seen:
        assert head.sample(logits, x).tokens.shape == x.shape
        head.log_prob(logits, x, logits.argmax(-1))
    assert 0 < seen.found < B * L * V, seen.by


def test_stored_logits_stay_listed_and_small(tmp_path: Path) -> None:
    """64 blocks of 32 positions of LLaDA's vocabulary, in shares of what it takes."""
    blocks, size, length, k = 4, 126_464, 32, 256
    rows = torch.randint(size, (blocks, length), generator=torch.Generator().manual_seed(0))
    line = torch.randn(size, generator=torch.Generator().manual_seed(0))
    stored = store_logits(
        lambda t: line.expand(*t.shape, size),
        tmp_path,
        rows,
        torch.full_like(rows, size),
        top_k=k,
        batch_size=2,
        progress=False,
    )
    taken = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert taken * 64 / blocks < 20 * 2**20
    with Largest() as seen:
        some = stored[torch.arange(blocks)]
    assert seen.found <= blocks * length * k * 4  # bytes of what is read
    assert isinstance(some.logits, pf.Potentials)


@pytest.mark.parametrize("numbers", [1, 1 << 40])
def test_no_row_is_read_for_what_a_backbone_rules_out(numbers: int) -> None:
    """The circuit's own marginals of all the others are right, gone over one by one or at once."""
    machine = pf.Machine(numbers=numbers)
    model = pf.compile(pf.hmm(L, 3, pf.Categorical(V)), DEVICE, torch.float64, machine=machine)
    x = torch.full((B, L), MASK, device=DEVICE)
    x[::2, 1] = 7
    said = Marginals.of(logits_of(3), x, MASK, top_k="auto", dtype=torch.float64)
    possible = said.masked.unsqueeze(-1) & (said.log_m > -torch.inf)
    assert said.listed is not None and 4 * int(possible.sum()) < 3 * possible.numel()
    read = []
    with pytest.MonkeyPatch.context() as patch:
        gather = torch.index_select
        patch.setattr(
            torch, "index_select", lambda *a, **k: read.append(len(a[2])) or gather(*a, **k)
        )
        found = posterior(model, said)
    wanted = model.marginals(said.visible()).gather(-1, said.listed)
    torch.testing.assert_close(found[possible], wanted[possible], rtol=1e-9, atol=1e-9)
    if numbers == 1:
        assert sum(read) < 1.1 * possible.sum() + 2 * B * L
