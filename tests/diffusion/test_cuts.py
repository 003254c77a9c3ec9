"""Tokens that the circuit does not know cut a text: what stands between two of them is its own.

Against enumeration: what is drawn between two such tokens has the circuit's probabilities times
what the backbone says, whatever stands beyond them, in `infill` and in other people's samplers.

Legend: n rows, N positions of a text, V tokens, W width of the circuit.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise, product
from types import SimpleNamespace

import pytest
import torch
from device import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import of_fifty
from scipy.stats import chisquare
from torch import Tensor

import pcflow as pf
from pcflow_diffusion import CircuitHead, CircuitLogits, Decoding, generate, infill

V, W = 3, 4
MASK, STRANGE = 8, [5, 9, 17]
ROWS = 4000


def head_of(seed: int) -> CircuitHead:
    """A circuit that is not the same at every place."""
    g = torch.Generator().manual_seed(seed)
    model = pf.compile(pf.hmm(W, 3, pf.Categorical(V), generator=g), DEVICE, torch.float64)
    return CircuitHead(model, MASK, "product")


class Places:
    """A backbone that says something else at every place, whatever is there."""

    config = SimpleNamespace(vocab_size=20)

    def __call__(self, tokens: Tensor) -> Tensor:
        places = 1.0 + torch.arange(tokens.shape[1], dtype=torch.float64, device=DEVICE)
        said = torch.sin(places.unsqueeze(-1) * (1.0 + torch.arange(V, device=DEVICE)))
        return said.expand(len(tokens), -1, -1)


backbone = Places()


def filled(head: CircuitHead, text: Tensor, seed: int) -> Tensor:
    """By `infill`, in one step."""
    how, g = Decoding(temperature=1.0), torch.Generator(DEVICE).manual_seed(seed)
    return infill(backbone, text, head, steps=1, decoding=how, generator=g)


def plugged(head: CircuitHead, text: Tensor, seed: int) -> Tensor:
    """By a sampler that commits the best token everywhere."""
    joint = CircuitLogits(head, generator=torch.Generator(DEVICE).manual_seed(seed))
    best = joint(backbone(text), text).argmax(dim=-1)
    return torch.where(text == MASK, best, text)


def pieces(text: list[int]) -> Iterator[range]:
    """Where a text is known to the circuit or masked, between tokens that are neither."""
    cuts = [-1, *(place for place, token in enumerate(text) if token in STRANGE), len(text)]
    yield from (range(a + 1, b) for a, b in pairwise(cuts) if b > a + 1)


def expected(head: CircuitHead, text: list[int], piece: range) -> dict[tuple[int, ...], float]:
    """The probability of every way to fill the masks of a piece, by trying all."""
    masked = [place for place in piece if text[place] == MASK]
    fillings = list(product(range(V), repeat=len(masked)))
    texts = torch.tensor(text, device=DEVICE).repeat(len(fillings), 1)
    texts[:, masked] = torch.tensor(fillings, device=DEVICE).long()
    log = head.over(len(piece)).model.log_prob(texts[:, piece.start : piece.stop])
    said = backbone(texts).log_softmax(dim=-1)
    log = log + said.gather(-1, texts.clamp_max(V - 1).unsqueeze(-1))[:, masked, 0].sum(dim=-1)
    return dict(zip(fillings, log.softmax(dim=0).tolist(), strict=True))


TEXTS = [
    [MASK, 5, MASK, MASK],
    [MASK, 1, 5, MASK, 2, MASK],
    [5, MASK, MASK, 9, 9, MASK, 0, 17],
    [1, 5, MASK, 17, 2, MASK, MASK, 0, 5],
    [MASK, MASK, 0, MASK, 5, MASK, 2],
]


@pytest.mark.parametrize("draw", [filled, plugged])
@pytest.mark.parametrize("text", TEXTS)
def test_what_stands_between_two_strange_tokens_is_as_by_enumeration(
    text: list[int], draw: Callable[[CircuitHead, Tensor, int], Tensor]
) -> None:
    """Jointly: pieces know nothing of one another."""
    head = head_of(1)
    found = draw(head, torch.tensor(text).repeat(ROWS, 1).to(DEVICE), 2)
    masked = torch.tensor(text) == MASK
    assert torch.equal(found[:, ~masked].cpu(), torch.tensor(text)[~masked].repeat(ROWS, 1))
    parts = [expected(head, text, piece) for piece in pieces(text)]
    wanted = {sum(some, ()): 1.0 for some in product(*parts)}
    for some in product(*(part.items() for part in parts)):
        filling = sum((filling for filling, _ in some), ())
        wanted[filling] = float(torch.tensor([p for _, p in some]).prod())
    counts = dict.fromkeys(wanted, 0)
    for row in found[:, masked].tolist():
        counts[tuple(row)] += 1
    observed = torch.tensor(list(counts.values()), dtype=torch.float64)
    even = torch.tensor(list(wanted.values()), dtype=torch.float64) * ROWS
    few = even < 5
    table = torch.stack([observed, even])
    table = torch.cat([table[:, ~few], table[:, few].sum(dim=-1, keepdim=True)], dim=1)
    table = table[:, table[1] > 0]
    assert chisquare(table[0], table[1] * ROWS / table[1].sum()).pvalue > 1e-6


SETTLED = Decoding(order="any_order")  # at temperature zero: no chance
TOKENS = st.sampled_from([0, 1, 2, MASK, MASK, MASK, *STRANGE])


@settings(max_examples=of_fifty(30))
@given(st.lists(TOKENS, min_size=1, max_size=11), st.integers(0, 99), st.sampled_from([None, 0, 1]))
def test_a_text_is_as_its_pieces_each_alone(
    text: list[int], seed: int, context: int | None
) -> None:
    """In one step, with a circuit that is shorter than some pieces."""
    head, whole = head_of(seed), torch.tensor([text]).to(DEVICE)

    class Within(Places):
        """What is said of a text from somewhere on."""

        def __init__(self, start: int) -> None:
            self.start = start

        def __call__(self, tokens: Tensor) -> Tensor:
            return super().__call__(whole)[:, self.start :][:, : tokens.shape[1]]

    def fill(start: int, stop: int) -> Tensor:
        some = whole[:, start:stop]
        return infill(
            Within(start), some, head, steps=1, decoding=SETTLED, circuit_context=context
        )[0]

    found = fill(0, len(text))
    for piece in pieces(text):
        assert torch.equal(fill(piece.start, piece.stop), found[piece.start : piece.stop])
    assert MASK not in found.tolist()


@settings(max_examples=of_fifty(20))
@given(st.lists(TOKENS, min_size=10, max_size=10), st.integers(1, 6), st.integers(0, 99))
def test_what_stands_beyond_a_strange_token_changes_nothing_before_it(
    text: list[int], steps: int, seed: int
) -> None:
    """In any number of steps: in a text longer than the circuit the backbone says where."""
    head, cut = head_of(seed), 5
    rows = torch.tensor([[*text[:cut], 9, *text[cut:]]] * 2).to(DEVICE)
    known = (rows[1] < V) & (torch.arange(len(text) + 1, device=DEVICE) > cut)
    rows[1, known] = (rows[1, known] + 1) % V
    joint = CircuitLogits(head, mode="marginal")(backbone(rows), rows)[:, :cut]
    assert torch.equal(joint[0], joint[1])
    found = infill(backbone, rows, head, steps=steps, decoding=SETTLED)
    assert torch.equal(found[0, :cut], found[1, :cut])
    assert not bool((found == MASK).any())


def test_a_block_after_a_strange_token_is_as_a_text_of_its_own() -> None:
    """`generate` and `infill` cut alike."""
    head = head_of(3)
    prompt = torch.tensor([[1, 5]]).to(DEVICE)
    found = generate(
        backbone, prompt, head, steps=1, gen_length=3, block_length=3, decoding=SETTLED
    )
    text = torch.tensor([[1, 5, MASK, MASK, MASK]]).to(DEVICE)
    assert torch.equal(found, infill(backbone, text, head, steps=1, decoding=SETTLED))


def test_rows_without_masks_are_asked_nothing() -> None:
    """So that a batch is refused only for what has to be drawn in it."""
    swap, even = [[0.0, 1.0], [1.0, 0.0]], [0.5, 0.5]
    circuit = pf.hmm(
        W, 2, pf.Categorical(V), initial=even, transition=swap, emission=torch.eye(V)[:2]
    )
    head = CircuitHead(pf.compile(circuit, DEVICE, torch.float64), MASK, "product")
    text = torch.tensor([[2, 2, 2], [0, MASK, 0], [2, 5, MASK]]).to(DEVICE)
    found = infill(backbone, text, head, steps=2)
    assert found[0].tolist() == [2, 2, 2] and found[1].tolist() == [0, 1, 0]
