"""Laws of training: it learns, it repeats itself, and the shipped checkpoint is what it says."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pcflow import SettingError
from pcflow_diffusion.errors import CheckpointError, DiffusionError, ShapeMismatch, TextError
from pcflow_diffusion.models import (
    Denoiser,
    DenoiserConfig,
    PieceTokenizer,
    Text,
    TrainingConfig,
    blocks,
    load_denoiser,
    load_text,
    masked_diffusion_loss,
    train_denoiser,
)
from pcflow_diffusion.models.checkpoints import make_english
from pcflow_diffusion.models.loop import _schedule
from pcflow_diffusion.models.training import _MaskedWindows, block_loss, held_out_rows

CONFIG = DenoiserConfig(vocabulary_size=5, width=16, depth=1, heads=2, dropout=0.0)
HOW = TrainingConfig(batch_size=8, learning_rate=1e-2, warmup=5, average=0.5, bfloat16=False)


def periodic(length: int = 600) -> Tensor:
    """A text whose every token follows from any neighbour."""
    return torch.arange(length) % 5


def train(steps: int, seed: int = 0) -> Denoiser:
    """A short run."""
    return train_denoiser(periodic(), CONFIG, steps=steps, seed=seed, training=HOW, progress=False)


def test_training_learns_a_periodic_text() -> None:
    rows = blocks(periodic())
    before, after = block_loss(train(1), rows, 0.5), block_loss(train(60), rows, 0.5)
    assert before > 1.2
    assert after < 0.3


def test_in_bfloat16_it_learns_as_much_and_keeps_its_weights_in_float32() -> None:
    found = train_denoiser(
        periodic(), CONFIG, steps=20, training=replace(HOW, bfloat16=True), progress=False
    )
    assert {weight.dtype for weight in found.parameters()} == {torch.float32}
    rows = blocks(periodic())
    exact, rounded = (block_loss(model, rows, 0.5) for model in (train(20), found))
    assert exact != rounded
    assert rounded == pytest.approx(exact, rel=0.02)


def test_the_same_seed_gives_the_same_weights_and_leaves_the_callers_draws_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second, other = train(3), train(3), train(3, seed=1)
    assert torch.equal(torch.rand(3), expected)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name])
    assert not torch.equal(first.head.weight, other.head.weight)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_positions_that_are_asked_about_have_the_logits_of_all(share: float) -> None:
    model, tokens = train(1), torch.randint(6, (3, 40), generator=torch.Generator().manual_seed(0))
    asked = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(1)) < share
    torch.testing.assert_close(model(tokens, asked), model(tokens)[asked])
    with pytest.raises(ShapeMismatch):
        model(tokens, asked[:2])


def test_the_loss_is_that_of_all_logits() -> None:
    how = replace(HOW, batch_size=64)
    run, model = _MaskedWindows(blocks(periodic()), CONFIG.mask_token_id, how), train(1)
    torch.manual_seed(0)
    _, nats = run(model)
    torch.manual_seed(0)
    x, x0, _ = run.batch()
    masked = x == CONFIG.mask_token_id
    whole = masked_diffusion_loss(model(x), x, x0, CONFIG.mask_token_id).sum() / masked.sum()
    torch.testing.assert_close(nats, whole)


def test_checkpoints_come_while_training_and_at_the_end() -> None:
    calls: list[bool] = []

    def checkpoint(model: Denoiser) -> None:
        calls.append(model.training)

    train_denoiser(
        periodic(), CONFIG, steps=4, training=HOW, checkpoint=checkpoint, checkpoint_minutes=0.0,
        progress=False,
    )  # fmt: skip
    assert calls == [False] * 4


class Stopped(Exception):
    """A run that ends before its time."""


def stop_after(calls: int) -> Callable[[Denoiser], None]:
    """A checkpoint that ends the run with so many calls."""
    left = iter(range(calls - 1))

    def checkpoint(_: Denoiser) -> None:
        if next(left, None) is None:
            raise Stopped

    return checkpoint


@pytest.mark.parametrize(("done", "bfloat16"), [(1, False), (4, True)])
def test_a_run_that_is_stopped_goes_on_bit_for_bit(
    tmp_path: Path, done: int, bfloat16: bool
) -> None:
    training = replace(HOW, bfloat16=bfloat16)
    how = {"steps": 6, "training": training, "checkpoint_minutes": 0.0, "progress": False}
    whole = train_denoiser(periodic(), CONFIG, held_out=periodic(300), **how)
    how["unfinished"] = tmp_path / "run"
    with pytest.raises(Stopped):
        train_denoiser(
            periodic(), CONFIG, held_out=periodic(300), **how, checkpoint=stop_after(done)
        )
    torch.manual_seed(done)  # another process has another state
    again = train_denoiser(periodic(), CONFIG, held_out=periodic(300), **how)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


def test_a_finished_run_goes_on_with_a_larger_budget_and_not_with_other_settings(
    tmp_path: Path,
) -> None:
    how = {"training": HOW, "progress": False, "unfinished": tmp_path / "run"}
    first = train_denoiser(periodic(), CONFIG, steps=2, **how)
    same = train_denoiser(periodic(), CONFIG, steps=2, **how)
    more = train_denoiser(periodic(), CONFIG, steps=4, **how)
    assert torch.equal(first.head.weight, same.head.weight)
    assert not torch.equal(first.head.weight, more.head.weight)
    with pytest.raises(CheckpointError, match="batch_size=4"):
        train_denoiser(
            periodic(), CONFIG, steps=9, **how | {"training": replace(HOW, batch_size=4)}
        )
    (tmp_path / "run").write_bytes(b"no file of tensors")
    with pytest.raises(CheckpointError, match="truncated"):
        train_denoiser(periodic(), CONFIG, steps=9, **how)


def test_a_run_may_begin_with_the_weights_of_another() -> None:
    first = train(30)
    how = replace(HOW, learning_rate=1e-9, average=0.0)
    again = train_denoiser(periodic(), CONFIG, steps=1, training=how, start=first, progress=False)
    for name, weight in first.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], weight)
    assert not torch.equal(train(1).head.weight, first.head.weight)


def test_a_budget_of_minutes_ends(capsys: pytest.CaptureFixture[str]) -> None:
    train_denoiser(
        periodic(), CONFIG, minutes=0.005, training=HOW, held_out=periodic(300), progress=True
    )
    assert "held-out=" in capsys.readouterr().err


@pytest.mark.parametrize("budget", [{}, {"minutes": 1.0, "steps": 2}, {"steps": 0}])
def test_budgets_that_say_nothing_or_two_things_are_refused(budget: dict[str, int]) -> None:
    with pytest.raises(DiffusionError, match="minutes or steps"):
        train_denoiser(periodic(), CONFIG, **budget)


def test_rows_without_context_are_masked_everywhere_and_with_it_only_in_the_block() -> None:
    short = {"whole_window": 0.0, "batch_size": 512, "bfloat16": False}
    rows = torch.arange(16).remainder(5).repeat(4, 1)
    for context, block, wanted in ((0, 16, 16), (10, 6, 6), (15, 1, 1)):
        how = TrainingConfig(context=context, block=block, **short)
        run = _MaskedWindows(rows, CONFIG.mask_token_id, how)
        masked = torch.zeros(16, dtype=torch.bool)
        for _ in range(20):
            x, x0, times = run.batch()
            assert x.shape[1] >= block
            assert times.min() >= 1 / block
            masked[-x.shape[1] :] |= (x != x0).any(dim=0)
        assert masked.tolist() == [False] * (16 - wanted) + [True] * wanted


def test_held_out_blocks_are_cut_like_the_training_windows(
    capsys: pytest.CaptureFixture[str],
) -> None:
    judged = held_out_rows(periodic(9), context=3, block=2)
    assert judged.tolist() == [[0, 1, 2, 3, 4], [2, 3, 4, 0, 1], [4, 0, 1, 2, 3]]
    how = TrainingConfig(context=3, block=2)
    settings = {"held_out": periodic(9), "steps": 1, "training": how, "progress": True}
    model = train_denoiser(periodic(), CONFIG, **settings)
    assert f"held-out={block_loss(model, judged, 0.5, 2):.3f}" in capsys.readouterr().err


def test_windows_of_another_length_are_refused() -> None:
    for rows, how in ((torch.zeros(3, 16), HOW), (torch.zeros(3, 128), TrainingConfig(block=16))):
        with pytest.raises(TextError, match=r"windows must be \[N, 1(28|12)\], got shape"):
            train_denoiser(rows, CONFIG, steps=1, training=how, progress=False)
    for size in ({"context": -1}, {"block": 0}):
        with pytest.raises(SettingError, match="must be a whole number of at least"):
            TrainingConfig(**size)


def test_settings_out_of_range_are_refused() -> None:
    for name, values in {
        "batch_size": (0, -1),
        "learning_rate": (0.0, -1e-3, float("inf"), float("nan")),
        "warmup": (-1,),
        "weight_decay": (-0.1, float("nan")),
        "gradient_clip": (0.0, -1.0),
        "average": (-0.1, 1.1),
        "whole_window": (-0.1, 1.1),
        "short_window": (-0.1, float("nan")),
    }.items():
        for value in values:
            with pytest.raises(SettingError, match=f"{name} must be .*, got {value}"):
                TrainingConfig(**{name: value})  # type: ignore[arg-type]


def test_without_warm_up_the_first_step_takes_the_highest_learning_rate() -> None:
    assert _schedule(0, 0.0, warmup=0) == _schedule(0, 0.0, warmup=1) == 1.0
    assert _schedule(0, 0.0, warmup=4) == 0.25
    how = TrainingConfig(warmup=0, batch_size=2, bfloat16=False)
    model = train_denoiser(periodic(), CONFIG, steps=1, training=how, progress=False)
    assert all(bool(weight.isfinite().all()) for weight in model.parameters())


def test_block_loss_of_a_uniform_denoiser_is_log_five() -> None:
    model = train(1)
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    for ratio in (0.15, 1.0):
        assert block_loss(model, blocks(periodic()), ratio) == pytest.approx(1.609438)


def test_the_script_writes_a_file_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(make_english, "DenoiserConfig", lambda v, **_: DenoiserConfig(v, 16, 1, 2))
    text = Text(load_text().train[:60_000], load_text().held_out[:20_000])
    monkeypatch.setattr(make_english, "load_text", lambda: text)
    monkeypatch.setattr(make_english, "JUDGED", 32)
    path = tmp_path / "out.safetensors"
    make_english.main(["--steps", "1", "--out", str(path)])
    assert load_denoiser(path)[1] == PieceTokenizer.fit(text.train, 1_024)
    assert "held-out nats per masked token: 15%" in capsys.readouterr().out


def test_the_shipped_checkpoint_is_small_and_knows_english() -> None:
    model, tokenizer = load_denoiser(make_english.PATH)
    rows = blocks(tokenizer.encode(load_text().held_out), 32)
    assert make_english.PATH.stat().st_size < 8_000_000
    assert block_loss(model, rows, 0.5) < 3.3  # of 1,024 pieces
