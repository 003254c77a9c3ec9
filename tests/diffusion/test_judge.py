"""Laws of the judge: what it sees, that it is a distribution, that it learns, and its files."""

from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pcflow import SettingError
from pcflow_diffusion.errors import CheckpointError, DiffusionError, ShapeMismatch, TokenOutOfRange
from pcflow_diffusion.evaluate.gap import LeftToRight
from pcflow_diffusion.models import (
    BLOCK,
    CharacterTokenizer,
    Denoiser,
    DenoiserConfig,
    Judge,
    TrainingConfig,
    TransformerConfig,
    blocks,
    load_denoiser,
    loop,
    train_denoiser,
    train_judge,
)
from pcflow_diffusion.models.judge import load_judge, save_judge
from pcflow_diffusion.models.loop import Optimisation
from pcflow_diffusion.models.training import held_out_rows

CONFIG = TransformerConfig(vocabulary_size=5, width=16, depth=2, heads=2, dropout=0.0)
HOW = Optimisation(batch_size=8, learning_rate=1e-2, warmup=5, average=0.5, bfloat16=False)


def judge(config: TransformerConfig = CONFIG) -> Judge:
    """A judge with opinions: its weights are not small."""
    made = Judge(config)
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    return made.double().eval()


def random_rows(count: int, length: int) -> Tensor:
    return torch.randint(5, (count, length))


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_all_rows_together_have_probability_one(length: int) -> None:
    config = TransformerConfig(vocabulary_size=3, width=16, depth=2, heads=2)
    every = torch.tensor(list(product(range(3), repeat=length)))
    with torch.no_grad():
        log_p = judge(config)(every)
    assert log_p.shape == every.shape
    assert float(log_p.sum(dim=1).exp().sum()) == pytest.approx(1.0, abs=1e-10)


def test_a_token_changes_nothing_before_it_and_everything_after() -> None:
    model, rows = judge(), random_rows(3, 24)
    with torch.no_grad():
        before = model(rows)
        for place in range(rows.shape[1]):
            changed = rows.clone()
            changed[:, place] = (rows[:, place] + 1) % 5
            moved = (model(changed) - before).abs()
            assert float(moved[:, :place].sum()) == 0.0
            assert bool((moved[:, place:] > 0).all()), place


def test_a_row_begins_the_same_however_it_goes_on() -> None:
    model, rows = judge(), random_rows(2, 12)
    with torch.no_grad():
        torch.testing.assert_close(model(rows)[:, :7], model(rows[:, :7]))


def test_the_beginning_of_a_row_is_no_token() -> None:
    model, rows = judge(), random_rows(2, 6)
    with torch.no_grad():
        before = model(rows)
        model.embedding.weight[:5].normal_()  # those of the real tokens
        assert torch.equal(model(rows)[:, 0], before[:, 0])
        model.embedding.weight[5].normal_()
        assert not torch.isclose(model(rows)[:, 0], before[:, 0]).any()


def test_nats_are_those_of_the_last_tokens_batch_by_batch() -> None:
    model, rows = judge(), random_rows(7, 9)
    with torch.no_grad():
        expected = -model(rows)[:, -4:]
    torch.testing.assert_close(model.nats(rows, last=4, batch_size=3), expected)
    assert not model.nats(rows, last=4).requires_grad


def test_a_judge_that_knows_nothing_needs_log_five() -> None:
    model = Judge(CONFIG).eval()
    torch.nn.init.zeros_(model.head.weight)
    nats = model.nats(random_rows(4, 6), last=6)
    torch.testing.assert_close(nats, torch.full_like(nats, 1.6094379))


@pytest.mark.parametrize("bad", [-1, 5, 6])
def test_tokens_that_are_not_real_are_refused(bad: int) -> None:
    with pytest.raises(TokenOutOfRange, match=f"token {bad},"):
        judge()(torch.tensor([[0, bad, 1]]))


def test_shapes_that_cannot_be_judged_are_refused() -> None:
    model = judge()
    for last in (0, 4):
        with pytest.raises(SettingError, match=f"last must be in 1 to 3, got {last}"):
            model.nats(random_rows(2, 3), last=last)
    with pytest.raises(ShapeMismatch):
        model.nats(torch.zeros(3, dtype=torch.long), last=1)
    with pytest.raises(ShapeMismatch):
        model(torch.zeros(3, dtype=torch.long))


def uneven(length: int) -> Tensor:
    """A text in which every token is one more than the last, or, one time in ten, anything."""
    jump = torch.where(torch.rand(length) < 0.1, torch.randint(5, (length,)), 1)
    return jump.cumsum(dim=0) % 5


def test_it_comes_near_the_entropy_of_a_chain_sooner_than_a_denoiser() -> None:
    text, rows = uneven(4000), blocks(uneven(2000), 40)
    made = train_judge(text, CONFIG, steps=80, training=HOW, progress=False)
    entropy = 0.3887  # of one 0.92 and four 0.02: -0.92 log 0.92 - 0.08 log 0.02
    reached = float(made.nats(rows, BLOCK).mean())
    assert entropy - 0.06 < reached < entropy + 0.15
    config = DenoiserConfig(**vars(CONFIG))
    how = TrainingConfig(**vars(HOW))
    denoiser = train_denoiser(text, config, steps=80, training=how, progress=False)
    own = LeftToRight(denoiser, denoiser.mask_token_id).nats(rows, BLOCK)
    assert reached < float(own.mean()) - 0.03


def test_the_weights_that_are_best_on_held_out_text_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Held-out text of another kind: the longer a judge trains, the less it knows of it."""
    monkeypatch.setattr(loop, "LOOK", 5)
    text, other = torch.arange(600) % 5, torch.randint(5, (600,))
    rows, settings = held_out_rows(other), {"steps": 60, "training": HOW, "progress": False}
    last = train_judge(text, CONFIG, **settings)  # type: ignore[arg-type]
    best = train_judge(text, CONFIG, held_out=other, **settings)  # type: ignore[arg-type]
    early = train_judge(text, CONFIG, held_out=other, **settings | {"steps": 5})  # type: ignore[arg-type]
    kept, end, start = (float(j.nats(rows, BLOCK).mean()) for j in (best, last, early))
    assert kept <= start + 0.05 and kept < end - 0.5


def test_the_same_seed_gives_the_same_judge_and_leaves_the_callers_draws_alone() -> None:
    def made(seed: int) -> Judge:
        text = torch.arange(600) % 5
        return train_judge(text, CONFIG, steps=3, seed=seed, training=HOW, progress=False)

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second, other = made(0), made(0), made(1)
    assert torch.equal(torch.rand(3), expected)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name])
    assert not torch.equal(first.head.weight, other.head.weight)
    assert not first.training


def test_it_learns_from_windows_of_any_length_and_shows_held_out_loss(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = random_rows(20, 7).to(torch.int32)
    train_judge(rows, CONFIG, minutes=0.003, training=HOW, held_out=rows, progress=True)
    assert "held-out=" in capsys.readouterr().err


@pytest.mark.parametrize("budget", [{}, {"minutes": 1.0, "steps": 2}, {"steps": 0}])
def test_budgets_that_say_nothing_or_two_things_are_refused(budget: dict[str, int]) -> None:
    with pytest.raises(DiffusionError, match="minutes or steps"):
        train_judge(torch.arange(600) % 5, CONFIG, **budget)


def test_a_saved_judge_comes_back_and_is_no_denoiser(tmp_path: Path) -> None:
    model, path, rows = Judge(CONFIG).half().float().eval(), tmp_path / "judge", random_rows(2, 9)
    letters = CharacterTokenizer("abcd\ufffd")
    save_judge(model, path, letters)
    loaded, tokenizer = load_judge(path)
    assert tokenizer == letters
    assert torch.equal(loaded(rows), model(rows))
    with pytest.raises(CheckpointError, match=r"judge\.1"):
        load_denoiser(path)
    assert Denoiser(DenoiserConfig(**vars(CONFIG))).state_dict().keys() == model.state_dict().keys()
