"""What `fit` does between epochs: other rows, news, seldom checkpoints, an end before time."""

import logging
import pickle
import sys
from pathlib import Path

import pytest
import torch
from test_fit import Stop, model_of, rows, values
from torch import Tensor

import pcflow as pf


class Parts:
    """Rows of which every epoch goes over another third."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.asked = x, list[int]()

    def __len__(self) -> int:
        return len(self.x)

    def take(self, chosen: Tensor) -> Tensor:
        return self.x[chosen]

    def of_epoch(self, number: int) -> "Parts":
        self.asked.append(number)
        return Parts(self.x[number % 3 :: 3])

    def fingerprint(self) -> list[Tensor]:
        return [self.x]


def fitted(data: object, epochs: int = 4, **more: object) -> tuple[Tensor, pf.FitResult]:
    torch.manual_seed(0)
    model = model_of()
    learner = pf.Anemone(decay=True)
    how = {"epochs": epochs, "batch_size": 7, "progress": False} | more
    return values(model), pf.fit(model, data, learner, **how)  # type: ignore[arg-type]


def test_every_epoch_learns_from_its_own_rows() -> None:
    torch.manual_seed(0)
    model, x = model_of(), rows()
    run, met = pf.Anemone().start(model), []
    for epoch in range(4):
        part = x[epoch % 3 :: 3]
        order = torch.randperm(len(part))
        total = torch.zeros(2, dtype=torch.float64)
        for batch in part[order].split(7):
            total += run.step([pf.Batch(batch)])
        met.append(float(total[0] / total[1]))
    parts = Parts(x)
    torch.manual_seed(0)
    other = model_of()
    result = pf.fit(other, parts, pf.Anemone(), epochs=4, batch_size=7, progress=False)
    assert parts.asked == [0, 0, 1, 2, 3]  # the bar asks how many there are
    assert result.train == met
    assert torch.equal(values(other), values(model))


def test_the_bar_counts_the_rows_of_epochs(capsys: pytest.CaptureFixture[str]) -> None:
    fitted(Parts(rows()), progress=True)
    assert "80.0/80.0" in capsys.readouterr().err


def test_rows_that_change_have_no_weights_beside_them() -> None:
    with pytest.raises(pf.TypeMismatch, match="None for rows that change by epoch"):
        fitted(Parts(rows()), weights=torch.ones(60))


def test_news_after_every_epoch() -> None:
    told: list[tuple[int, int]] = []
    held_out = rows(30, 2)
    fitted(
        rows(),
        validation=held_out,
        after_epoch=lambda result: told.append((len(result.train), len(result.validation))),
    )
    assert told == [(1, 1), (2, 2), (3, 3), (4, 4)]


def test_an_interrupted_fit_leaves_the_best_so_far() -> None:
    held_out = rows(30, 2)
    scores: list[float] = []

    def stop(result: pf.FitResult) -> None:
        scores[:] = result.validation
        if len(scores) == 5:
            raise Stop

    model = model_of()
    learner = pf.MiniBatchEM(step=1.0)  # goes up and down
    with pytest.raises(Stop):
        pf.fit(
            model,
            rows(),
            learner,
            epochs=9,
            batch_size=8,
            validation=held_out,
            progress=False,
            after_epoch=stop,
        )
    assert max(scores) > scores[-1]  # the last is not the best
    assert model.log_prob(held_out).mean().item() == pytest.approx(max(scores))


class Interrupted(Parts):
    """Rows over which somebody presses Ctrl-C, when they are asked for once too often."""

    def __init__(self, x: Tensor, times: int) -> None:
        super().__init__(x)
        self.left = times

    def take(self, chosen: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().take(chosen)

    def of_epoch(self, number: int) -> "Interrupted":
        return self


@pytest.mark.parametrize("where", ["an epoch", "judging"])
def test_what_is_interrupted_tells_what_it_has_learned(where: str) -> None:
    whole, stopped = model_of(), model_of()
    whole.load_state_dict(stopped.state_dict())
    train, held_out = Parts(rows(28)), Parts(rows(14, 2))
    how = {"batch_size": 7, "progress": False}
    torch.manual_seed(0)
    good = pf.fit(whole, train.x, pf.MiniBatchEM(), epochs=3, validation=held_out.x, **how)  # type: ignore[arg-type]
    # batches of an epoch: four and two; so the fourth epoch is not done
    late: dict[str, tuple[Parts, Parts]] = {
        "an epoch": (Interrupted(train.x, 4 * 3 + 2), held_out),
        "judging": (train, Interrupted(held_out.x, 2 * 3 + 1)),
    }
    rows_of, judge = late[where]
    torch.manual_seed(0)
    with pytest.raises(
        pf.FitInterrupted, match=r"^interrupted after 3 epochs; .* of epoch \d$"
    ) as info:
        pf.fit(stopped, _all(rows_of), pf.MiniBatchEM(), epochs=9, validation=judge, **how)  # type: ignore[arg-type]
    assert isinstance(info.value, KeyboardInterrupt)
    assert info.value.result == good
    assert torch.equal(values(stopped), values(whole))
    again = pickle.loads(pickle.dumps(info.value))
    assert (again.result, str(again)) == (good, str(info.value))


def _all(parts: Parts) -> Parts | Tensor:
    """Rows that are the same in every epoch."""
    return parts if isinstance(parts, Interrupted) else parts.x


def test_what_is_skipped_in_an_epoch_that_is_not_done_is_not_told() -> None:
    model, x = model_of(), rows(28)
    with pytest.raises(pf.FitInterrupted) as info:
        pf.fit(
            model,
            x,
            pf.MiniBatchEM(),
            batch_size=7,
            impossible="skip",
            validation=Interrupted(x, 4 * 2 + 1),
            progress=False,
        )
    result = info.value.result
    assert [len(told) for told in (result.train, result.validation, result.skipped)] == [2, 2, 2]


def test_every_epoch_is_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "pcflow"):
        result = pf.fit(model_of(), rows(), epochs=2, validation=rows(30, 2), progress=False)
    assert [record.name for record in caplog.records] == ["pcflow.fit"] * 2
    train, valid = result.train[1], result.validation[1]
    assert caplog.messages[1] == f"epoch 2/2, train {train:.4f}, valid {valid:.4f}"


def test_a_checkpoint_is_written_as_seldom_as_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, written = [0.0], list[int]()
    monkeypatch.setattr(sys.modules["pcflow.learn.fit"], "monotonic", lambda: now[0])
    file = tmp_path / "fit"

    def later(result: pf.FitResult) -> None:
        now[0] += 2.0
        if file.exists():
            written.append(len(result.train))
            file.unlink()

    fitted(rows(), 8, checkpoint=file, checkpoint_seconds=5.0, after_epoch=later)
    assert written == [4, 7, 8]  # six seconds apart, and at the end


def test_parts_go_on_where_they_were_however_seldom_they_are_kept(tmp_path: Path) -> None:
    def run(checkpoint: Path | None, stop: int, seconds: float) -> Tensor:
        def leave(result: pf.FitResult) -> None:
            if len(result.train) == stop:
                raise Stop

        torch.manual_seed(0)
        model = model_of()
        how = {"checkpoint": checkpoint, "checkpoint_seconds": seconds, "after_epoch": leave}
        parts, held_out = Parts(rows()), rows(30, 2)
        pf.fit(  # type: ignore[call-overload]
            model,
            parts,
            pf.Anemone(decay=True),
            epochs=6,
            batch_size=7,
            validation=held_out,
            progress=False,
            **how,
        )
        return values(model)

    whole = run(None, 0, 0.0)
    for seconds in (0.0, 1e9):
        file = tmp_path / f"fit{seconds}"
        with pytest.raises(Stop):
            run(file, 4, seconds)
        assert file.exists() == (seconds == 0.0)
        assert torch.equal(run(file, 0, seconds), whole)


def test_an_epoch_may_be_said_to_be_the_last(tmp_path: Path) -> None:
    """It is kept then, however seldom checkpoints are written, and gone on from as from a stop."""
    held_out, file = rows(30, 2), tmp_path / "fit"

    def run(epochs: int, last: int = 0) -> tuple[Tensor, pf.FitResult]:
        torch.manual_seed(0)
        model = model_of()
        result = pf.fit(
            model,
            rows(),
            pf.Anemone(),
            epochs=epochs,
            batch_size=7,
            validation=held_out,
            progress=False,
            checkpoint=file,
            checkpoint_seconds=1e9,
            after_epoch=lambda result: len(result.train) == last,
        )
        return values(model), result

    _, stopped = run(9, last=3)
    assert len(stopped.train) == 3 and file.exists()
    found, result = run(5)
    file.unlink()
    wanted, whole = run(5)
    assert torch.equal(found, wanted)
    assert (result.train, result.validation) == (whole.train, whole.validation)


def test_seconds_are_not_negative() -> None:
    with pytest.raises(pf.SettingError, match="checkpoint_seconds must be not negative, got -1"):
        fitted(rows(), checkpoint_seconds=-1)
