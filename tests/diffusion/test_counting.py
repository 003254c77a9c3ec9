"""Laws of the judge that counts."""

import pytest
import torch

from pcflow_diffusion.evaluate.counting import CountingReader


@pytest.mark.parametrize("vocabulary", [3, 40, 5_000, 126_464])
def test_the_shares_of_all_tokens_add_up_to_one(vocabulary: int) -> None:
    text = torch.randint(3, (400,), generator=torch.Generator().manual_seed(0))
    reader = CountingReader(text, vocabulary)
    before = text[100:108].repeat(vocabulary, 1)
    rows = torch.cat([before, torch.arange(vocabulary)[:, None]], dim=1)
    shares = (-reader.nats(rows, last=1)).exp()
    assert float(shares.sum()) == pytest.approx(1.0)
    assert float(shares.min()) > 0


def test_a_judge_that_counts_knows_what_it_has_read_and_needs_little_before_it() -> None:
    text = torch.arange(600) % 7
    reader = CountingReader(text, 7)
    assert float(reader.nats(text[None, :20], last=10).max()) < 0.1
    assert float(reader.nats(text[None, :20].flip(1), last=10).min()) > 1
    assert reader.nats(text[None, :3], last=3).shape == (1, 3)
