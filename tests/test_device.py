"""Laws begin every example with the same draws, on a device as on the CPU."""

import pytest
import torch
from device import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st


def test_examples_begin_with_the_same_draws() -> None:
    found = []

    @settings(max_examples=5, database=None)
    @given(st.integers())
    def law(number: int) -> None:
        found.append(torch.rand(3, device=DEVICE).tolist())

    law()
    assert len(found) > 2 and all(numbers == found[0] for numbers in found)


def test_a_device_in_use_is_seeded_for_every_example(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)

    @settings(max_examples=5, database=None)
    @given(st.integers())
    def law(number: int) -> None:
        pass

    law()
    assert len(seeds) >= 5
