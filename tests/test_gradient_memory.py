"""What gradients are written on: used again when nobody holds it, and never before."""

import gc
import pickle
from itertools import combinations

import torch

import pcflow as pf
from pcflow.engine.pages import LARGE, Pages

NUMBERS = LARGE // 4
LIKE = torch.zeros(1)


def taken(pages: Pages, times: int = 1) -> torch.Tensor:
    return pages.take(LIKE, (times, NUMBERS))


def test_what_is_held_is_never_lent_again() -> None:
    pages = Pages()
    row, second = taken(pages)[0, 5:9], taken(pages)
    row.fill_(3.0)
    array, second = second.numpy(), taken(pages)
    array[:] = 5.0
    third = [taken(pages).fill_(7.0) for _ in range(2)]
    assert row.tolist() == [3.0] * 4 and (array == 5.0).all()
    places = [row.untyped_storage().data_ptr(), array.ctypes.data, second.data_ptr()]
    every = places + [one.data_ptr() for one in third]
    assert all(abs(a - b) >= LARGE for a, b in combinations(every, 2))


def test_what_nobody_holds_is_lent_again() -> None:
    pages = Pages()
    place = taken(pages).data_ptr()
    assert pages.waiting == LARGE
    again = taken(pages)
    assert again.data_ptr() == place and pages.waiting == 0
    assert again.dtype == torch.float32 and again.shape == (1, NUMBERS)
    del again
    assert pages.take(LIKE.double(), (NUMBERS // 2,)).data_ptr() == place


def test_no_more_is_kept_than_was_in_use_at_once() -> None:
    pages = Pages()
    both = taken(pages), taken(pages, 2)
    del both
    assert pages.waiting == 3 * LARGE
    for size in (3, 1, 2, 3):
        held = taken(pages, size)
        assert pages.waiting + held.nbytes <= 3 * LARGE
        del held
    assert pages.waiting == 3 * LARGE


def test_what_is_small_is_torchs_own() -> None:
    pages = Pages()
    assert pages.take(LIKE, (NUMBERS - 1,)).shape == (NUMBERS - 1,)
    assert pages.take(LIKE, (0, 3)).shape == (0, 3)
    assert pages.waiting == 0


def test_gradients_outlive_their_model_and_are_counted_when_they_are_gone() -> None:
    family = pf.Categorical(LARGE // 256)
    model = pf.compile(pf.hmm(2, states=64, inputs=family, homogeneous=False))
    (first, *_) = torch.autograd.grad(model.log_prob(torch.zeros(3, 2)).sum(), model.parameters())
    (other, *_) = torch.autograd.grad(model.log_prob(torch.ones(3, 2)).sum(), model.parameters())
    assert not torch.equal(first, other) and model.memory.gradients == 0
    copy, size = pickle.loads(pickle.dumps(first)), first.nbytes
    del other
    gc.collect()
    assert model.memory.gradients >= size
    del model
    gc.collect()
    assert torch.equal(first, copy)
