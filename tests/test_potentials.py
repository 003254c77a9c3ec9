"""Potentials that list categories say what those of all categories say, all others impossible."""

import torch
from device import DEVICE
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import pcflow as pf

Pair = tuple[pf.Potentials, pf.Potentials]
SIZE = 7


@st.composite
def pairs(draw: st.DrawFn) -> Pair:
    """Listed ones [3, 2, k], in any order, and the same of all categories [3, 2, 7]."""
    k, seed = draw(st.integers(1, SIZE)), draw(st.integers(0, 2**31 - 1))
    generator = torch.Generator().manual_seed(seed)
    listed = torch.rand(3, 2, SIZE, generator=generator).argsort(-1)[..., :k].to(DEVICE)
    listed = listed.sort(dim=-1).values if draw(st.booleans()) else listed  # which is read as it is
    log = torch.randn(3, 2, k, generator=generator).to(DEVICE)
    dense = torch.full((3, 2, SIZE), -torch.inf, device=DEVICE).scatter(-1, listed, log)
    return pf.Potentials.of(log, listed), pf.Potentials.of(dense)


def on_device(numbers: list[int]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.long, device=DEVICE)


def every(potentials: pf.Potentials) -> Tensor:
    return potentials.dense(SIZE)


@given(pairs(), st.data())
def test_both_kinds_answer_alike(pair: Pair, data: st.DataObject) -> None:
    listed, dense = pair
    assert listed.categories is not None and dense.categories is None
    assert torch.equal(every(listed), every(dense))
    rows = data.draw(st.lists(st.integers(0, 2), max_size=4).map(on_device))
    variables = rows % 2
    assert torch.equal(every(listed[rows]), every(dense[rows]))
    assert torch.equal(every(listed[:, 1]), every(dense[:, 1]))
    some = [p.entries(rows, variables) for p in pair]
    assert torch.equal(*map(every, some))
    chosen = data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=9).map(on_device))
    here = chosen.expand(3, 2, -1)
    assert torch.equal(listed.at(here), dense.at(here))
    there = chosen.expand(len(rows), -1)
    found = [p.at_entries(rows, variables, there) for p in pair]
    assert torch.equal(*found) and torch.equal(found[0], some[0].at(there))
    assert torch.equal(listed.at(listed.categories), listed.log)
    assert torch.equal(
        listed.at_entries(rows, variables, listed.categories[rows, variables]),
        listed.log[rows, variables],
    )


@given(pairs(), st.integers(1, SIZE))
def test_numbers_are_told_apart_by_category(pair: Pair, size: int) -> None:
    listed, dense = pair
    numbers = torch.randn(3, 2, SIZE, device=DEVICE)
    possible = every(dense) > -torch.inf
    spread = every(listed.like(listed.among(numbers)))
    assert torch.equal(spread, dense.among(numbers).masked_fill(~possible, -torch.inf))
    sizes = on_device([size, SIZE])
    kept = [p.log.masked_fill(p.beyond(sizes), -torch.inf) for p in pair]
    assert torch.equal(every(listed.like(kept[0])), kept[1])
    below = listed.below(size)
    assert below.categories is not None and (below.categories < size).all()
    first = dense.below(size).log
    assert first.shape[-1] == size
    torch.testing.assert_close(below.log.exp().sum(-1), first.exp().sum(-1))


@given(pairs())
def test_a_reader_is_told_which_categories(pair: Pair) -> None:
    listed, dense = pair
    assert dense.read(lambda: "every", lambda _: "some") == "every"
    assert listed.read(lambda: None, lambda some: some) is listed.categories


@given(pairs(), st.integers(1, SIZE))
def test_the_largest_of_the_listed_are_the_largest_of_all(pair: Pair, k: int) -> None:
    listed, dense = pair
    k = min(k, listed.log.shape[-1])
    assert torch.equal(every(listed.top_k(k)), every(dense.top_k(k)))


@given(pairs(), st.integers(1, 9))
def test_others_come_behind(pair: Pair, size: int) -> None:
    listed, dense = pair
    others = torch.randn(3, 4, size, device=DEVICE)
    wanted = dense.beside(others).dense(max(size, SIZE))
    assert torch.equal(wanted[:, :2, :SIZE], every(dense))
    assert torch.equal(wanted[:, 2:, :size], others)
    assert (wanted[:, :2, SIZE:] == -torch.inf).all() and (wanted[:, 2:, size:] == -torch.inf).all()
    both = listed.beside(others)
    assert torch.equal(both.dense(max(size, SIZE)), wanted)
    assert not both.misplaced(max(size, SIZE)).any()


@given(pairs(), st.integers(0, 2**31 - 1))
def test_a_place_stands_for_a_category(pair: Pair, seed: int) -> None:
    listed, dense = pair
    assert listed.categories is not None
    generator = torch.Generator().manual_seed(seed)
    place = torch.randint(listed.log.shape[-1], (3, 2), generator=generator).to(DEVICE)
    found = listed.log.gather(-1, place.unsqueeze(-1))
    assert torch.equal(listed.at(listed.category(place).unsqueeze(-1)), found)
    assert dense.category(place) is place


@given(pairs(), st.data())
def test_what_is_listed_twice_or_nowhere_is_misplaced(pair: Pair, data: st.DataObject) -> None:
    listed, _ = pair
    assert listed.categories is not None and not listed.misplaced(SIZE).any()
    row, variable = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 1))
    place = data.draw(st.integers(0, listed.categories.shape[-1] - 1))
    others = set(listed.categories[row, variable].tolist())
    others.discard(int(listed.categories[row, variable, place]))
    wrong = listed.categories.clone()
    wrong[row, variable, place] = data.draw(st.sampled_from([*sorted(others), -1, SIZE]))
    found = pf.Potentials.of(listed.log, wrong).misplaced(SIZE)
    assert found.sum() == 1 and bool(found[row, variable])


def test_evidence_takes_potentials() -> None:
    soft = torch.randn(2, 3, 5, device=DEVICE)
    about = pf.Evidence(torch.zeros(2, 3)).with_potentials(pf.Potentials.of(soft).top_k(2))
    assert about.categories is not None
    assert torch.equal(about.categories, soft.topk(2, dim=-1).indices.sort(-1).values)
