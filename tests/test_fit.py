"""`fit` on data of every kind, stopped and taken up again, in one process and in two."""

import json
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
from device import DEVICE
from processes import ends, start, start_together
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import pcflow as pf
from pcflow.io import read_file, write_file
from pcflow.learn import Learner

LEARNERS: dict[str, Callable[[], Learner]] = {
    "EM": pf.EM,
    "Anemone": pf.Anemone,
    "MiniBatchEM": pf.MiniBatchEM,
    "Adam": pf.Gradient,
}
every_learner = pytest.mark.parametrize("learner", LEARNERS)


def model_of(seed: int = 0) -> pf.CompiledCircuit:
    generator = torch.Generator().manual_seed(seed)
    columns = [pf.Categorical(3), pf.Gaussian(), pf.Bernoulli(), pf.Gaussian()]
    regions = pf.structure.random_binary_tree(4, replicas=2)
    circuit = pf.build_circuit(regions, columns, units=3, generator=generator)
    return pf.compile(circuit, DEVICE, torch.float64)


def rows(count: int = 60, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, generator=generator)
    x[:, 0] = torch.randint(3, (count,), generator=generator).float()
    x[:, 2] = torch.randint(2, (count,), generator=generator).float()
    return x.masked_fill(torch.rand(count, 4, generator=generator) < 0.1, torch.nan)


def values(model: pf.CompiledCircuit) -> Tensor:
    return torch.cat([p.detach().cpu().flatten() for p in model.parameters()])


def fitted(data: object, learner: Learner | None = None, **more: object) -> Tensor:
    model = model_of()
    pf.fit(model, data, learner, epochs=3, batch_size=16, progress=False, **more)  # type: ignore[arg-type]
    return values(model)


def test_arrays_teach_what_tensors_teach(tmp_path: Path) -> None:
    x = rows()
    wanted = fitted(x)
    mapped = np.memmap(tmp_path / "rows", np.float32, "w+", shape=(60, 4))
    mapped[:] = x.numpy()
    mapped.flush()
    reopened = np.memmap(tmp_path / "rows", np.float32, "r", shape=(60, 4))
    backwards = np.asfortranarray(x.numpy().astype(">f4"))
    for array in (x.numpy(), reopened, backwards, x.numpy()[::-1][::-1]):
        assert torch.equal(fitted(array), wanted)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int64, np.bool_])
def test_arrays_of_whole_numbers(dtype: type) -> None:
    x = torch.randint(2, (40, 3))
    ends = []
    for data in (x, x.numpy().astype(dtype)):
        model = pf.compile(pf.hmm(3, 2, pf.Bernoulli(), generator=torch.Generator().manual_seed(0)))
        pf.fit(model, data, epochs=2, validation=data, progress=False)
        ends.append(values(model))
    assert torch.equal(ends[0], ends[1])


def test_loaders_teach_what_tensors_teach() -> None:
    x = rows()
    wanted = fitted(x, validation=x)
    for dataset in (TensorDataset(x, torch.arange(60)), list(x)):
        loader: DataLoader[object] = DataLoader(dataset, batch_size=16)  # type: ignore[arg-type]
        torch.testing.assert_close(fitted(loader, validation=loader), wanted)
        results = [
            pf.fit(model_of(), x, epochs=2, batch_size=16, validation=judge, progress=False)
            for judge in (loader, x)
        ]
        assert results[0].validation == pytest.approx(results[1].validation)


def test_a_loader_that_does_not_know_its_length(capsys: pytest.CaptureFixture[str]) -> None:
    class Stream(IterableDataset[Tensor]):
        def __iter__(self):  # type: ignore[no-untyped-def]
            return iter(rows())

    loader = DataLoader(Stream(), batch_size=16)
    torch.testing.assert_close(fitted(loader), fitted(rows()))
    pf.fit(model_of(), loader, epochs=2, progress=True)
    assert "epoch=2/2" in capsys.readouterr().err


def test_data_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(pf.TypeMismatch, match=r"train must be numbers in rows, .* got range"):
        fitted(range(4))
    with pytest.raises(pf.EvidenceError, match=r"train must be numbers .* got ndarray <U1"):
        fitted(np.full((3, 4), "a"))
    with pytest.raises(pf.EvidenceError, match=r"train must be \[N, 4\]"):
        fitted(np.zeros((3, 5)))
    with pytest.raises(pf.EvidenceError, match="train holds no observed value"):
        fitted(np.full((3, 4), np.nan))
    with pytest.raises(pf.EvidenceError, match=r"train must load \[B, 4\], got \(16, 3\)"):
        fitted(DataLoader(TensorDataset(torch.zeros(16, 3)), batch_size=16))
    with pytest.raises(pf.EvidenceError, match=r"train must load \[B, 4\], got dict"):
        fitted(DataLoader([{"x": 0}, {"x": 1}]))  # type: ignore[arg-type]


def test_a_batch_of_all_rows_is_looked_at_as_numbers_are() -> None:
    for bad, why in (
        (torch.zeros(0, 4), "rows"),
        (torch.zeros(3, 5), "train must be"),
        (torch.full((3, 4), torch.nan), "no observed value"),
        (pf.Evidence(torch.zeros(0, 4)), "no rows"),
    ):
        with pytest.raises(pf.EvidenceError, match=why):
            fitted(pf.Batch(bad))
    far, model = 1e8 + rows(20)[:, [1, 3]].double(), pf.naive_bayes([pf.Gaussian()] * 2, units=2)
    with pytest.warns(UserWarning, match="float32 rounds"):
        pf.fit(pf.compile(model, DEVICE), pf.Batch(far), pf.EM(), epochs=1, progress=False)


def test_the_bar_tells_likelihoods_and_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    pf.fit(model_of(), rows(), epochs=3, validation=rows(20, 2), progress=True)
    shown = capsys.readouterr().err
    assert "180/180" in shown  # rows
    for told in ("epoch=3/3", "train=-", "valid=-", "<"):
        assert told in shown


def test_the_course_is_drawn() -> None:
    result = pf.fit(model_of(), rows(), epochs=4, validation=rows(20, 2), progress=False)
    axes = result.plot()
    drawn = [list(line.get_ydata()) for line in axes.get_lines()]  # type: ignore[call-overload]
    assert drawn[0] == result.train
    assert drawn[1] == result.validation


class Stop(BaseException):
    """Raised where a person would press control-C."""


def learned_anew(
    learner: str, checkpoint: Path | None = None, seed: int = 0
) -> tuple[Tensor, pf.FitResult]:
    torch.manual_seed(3)  # the order of rows
    model = model_of(seed)
    result = pf.fit(
        model,
        rows(),
        LEARNERS[learner](),
        epochs=6,
        batch_size=16,
        validation=rows(30, 2),
        patience=3,
        checkpoint=checkpoint,
        progress=False,
    )
    return values(model), result


learned = cache(learned_anew)  # of a learner, once


@every_learner
@pytest.mark.parametrize("stop", [1, 4])
def test_a_stopped_fit_goes_on_to_the_same_parameters(
    learner: str, stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, result = learned(learner)
    run, file = partial(learned_anew, learner), tmp_path / "fit"
    done = 0

    def count(path: Path, *rest: object) -> None:
        nonlocal done
        write_file(path, *rest)  # type: ignore[arg-type]
        done += 1
        if done == stop:
            raise Stop

    monkeypatch.setattr("pcflow.learn.checkpoint.write_file", count)
    with pytest.raises(Stop):
        run(file)
    monkeypatch.undo()
    resumed, same = run(file, seed=9)  # other initial parameters: those of the file count
    assert torch.equal(resumed, whole)
    assert same == result
    again, same = run(file)  # there is nothing left to do
    assert torch.equal(again, whole)
    assert same == result


def test_a_generator_goes_on_where_it_was(tmp_path: Path) -> None:
    def run(epochs: int, checkpoint: Path | None) -> Tensor:
        model, generator = model_of(), torch.Generator().manual_seed(5)
        pf.fit(
            model,
            rows(),
            pf.MiniBatchEM(),
            epochs=epochs,
            batch_size=16,
            checkpoint=checkpoint,
            progress=False,
            generator=generator,
        )
        return values(model)

    run(2, tmp_path / "fit")
    assert torch.equal(run(5, tmp_path / "fit"), run(5, None))


def test_a_checkpoint_of_another_fit_is_refused_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "fit"
    before = fitted(rows(), checkpoint=file)
    kept = file.read_bytes()
    loose = torch.Generator()
    for what, call in {
        "learner.kind is 'EM' there and 'Anemone' here": lambda: fitted(
            rows(), pf.Anemone(), checkpoint=file
        ),
        "train.rows is 60 there and 59 here": lambda: fitted(rows(59), checkpoint=file),
        "validation is None there": lambda: fitted(rows(), validation=rows(), checkpoint=file),
        "generator is False there": lambda: fitted(rows(), generator=loose, checkpoint=file),
        "batch_size": lambda: pf.fit(model_of(), rows(), checkpoint=file, progress=False),
    }.items():
        with pytest.raises(pf.FileFormatError, match=re.escape(what)):
            call()
    other = pf.compile(pf.hmm(4, 2, pf.Gaussian()), DEVICE, torch.float64)
    with pytest.raises(pf.FileFormatError, match="circuit is"):
        pf.fit(other, rows(), batch_size=16, checkpoint=file, progress=False)
    assert file.read_bytes() == kept
    assert torch.equal(fitted(rows(), checkpoint=file), before)


def test_a_checkpoint_knows_which_categories_were_listed(tmp_path: Path) -> None:
    def listed(second: int) -> pf.Evidence:
        categories = torch.tensor([0, second]).expand(5, 2, 2)
        return pf.Evidence(log_potentials=torch.zeros(5, 2, 2), categories=categories)

    model = pf.compile(pf.naive_bayes([pf.Categorical(3)] * 2, units=2), DEVICE)
    told = {"epochs": 1, "progress": False, "checkpoint": tmp_path / "point"}
    pf.fit(model, listed(1), pf.EM(), **told)  # type: ignore[arg-type]
    with pytest.raises(pf.FileFormatError, match="train"):
        pf.fit(model, listed(2), pf.EM(), **told)  # type: ignore[arg-type]


def test_broken_checkpoints_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "fit"
    fitted(rows(), checkpoint=file)
    described, tensors = read_file(file, 1)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(pf.FileFormatError, match="truncated"):
        fitted(rows(), checkpoint=file)
    torch.save({"a": 1}, file)
    with pytest.raises(pf.FileFormatError, match="pickle"):
        fitted(rows(), checkpoint=file)
    pf.save(model_of(), file)
    with pytest.raises(pf.FileFormatError, match="not a checkpoint"):
        fitted(rows(), checkpoint=file)
    write_file(file, {}, described)
    with pytest.raises(pf.FileFormatError, match="does not describe a fit"):
        fitted(rows(), checkpoint=file)
    write_file(file, tensors, described | {"checkpoint": {"dict": []}})
    with pytest.raises(pf.FileFormatError, match="does not describe a fit"):
        fitted(rows(), checkpoint=file)
    write_file(file, {n: t[:1] if t.dim() == 3 else t for n, t in tensors.items()}, described)
    with pytest.raises(pf.FileFormatError, match="shape of"):
        fitted(rows(), checkpoint=file)


class Slow:
    """A learner that rests before every epoch, and counts the rows that it is shown."""

    def __init__(self, teacher: Learner, pause: float) -> None:
        self.teacher, self.pause, self.full_batch = teacher, pause, teacher.full_batch
        self.rows = 0

    def start(self, model: pf.CompiledCircuit, team: pf.Team) -> "Slow":
        self.run = self.teacher.start(model, team)
        self.state, self.restore = self.run.state, self.run.restore
        return self

    def step(self, batches: Iterable[pf.Batch], done: float) -> Tensor:
        if done * EPOCHS % 1 == 0:  # an epoch begins
            time.sleep(self.pause)
        return self.run.step(self.count(batches), done)

    def count(self, batches: Iterable[pf.Batch]) -> Iterator[pf.Batch]:
        for batch in batches:
            self.rows += len(batch)
            yield batch


EPOCHS = 6


def learn(
    learner: str, checkpoint: Path | None, out: Path, pause: float = 0.0, distributed: bool = False
) -> None:
    """Save what is learned under a name that begins with `out`, and what `fit` tells beside it."""
    rank = torch.distributed.get_rank() if distributed else 0
    torch.manual_seed(rank)  # of several, the first one's order and initial parameters count
    model, slow = model_of(rank), Slow(LEARNERS[learner](), pause)
    result = pf.fit(
        model, rows(52), slow, epochs=EPOCHS, batch_size=17, progress=False,
        validation=rows(31, 2), checkpoint=checkpoint, distributed=distributed,
        weights=torch.arange(52) % 3 + 0.5, validation_weights=torch.arange(31) % 2 + 0.5,
    )  # fmt: skip
    if rank == 0:
        pf.save(model, f"{out}{learner}")
        told = {"train": result.train, "validation": result.validation, "rows": slow.rows}
        Path(f"{out}{learner}.json").write_text(json.dumps(told))


def learn_alone(out: Path) -> None:
    for learner in LEARNERS:
        learn(learner, None, out)


def learn_together(out: Path) -> None:
    torch.distributed.init_process_group("gloo")
    for learner in LEARNERS:
        learn(learner, None, out, distributed=True)
    torch.distributed.barrier()  # who leaves while others talk may be ended by a thread of gloo
    torch.distributed.destroy_process_group()


def test_a_killed_fit_goes_on_to_the_same_parameters(tmp_path: Path) -> None:
    file, out, whole = (tmp_path / name for name in ("fit", "out", "whole"))
    undisturbed = start(learn, "Anemone", None, whole)
    killed = start(learn, "Anemone", file, out, 0.5)
    while not file.exists() and killed.is_alive():
        time.sleep(0.02)
    time.sleep(0.7)
    killed.kill()
    assert ends([killed]) == [-signal.SIGKILL]  # it had not finished by itself
    assert not Path(f"{out}Anemone").exists()
    assert ends([undisturbed, start(learn, "Anemone", file, out)]) == [0, 0]
    resumed, wanted = (values(pf.load(f"{path}Anemone")) for path in (out, whole))
    assert torch.equal(resumed, wanted)


def test_a_process_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else Python would wait for it when all tests are through."""
    monkeypatch.setattr(processes, "PATIENCE", 0.1)
    hangs = start(time.sleep, 3_600)
    assert ends([hangs]) == [None]
    assert not hangs.is_alive()


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    alone, together = start(learn_alone, one), start_together(2, learn_together, two)
    assert ends([alone, *together]) == [0, 0, 0]
    for learner in LEARNERS:
        found, wanted = (values(pf.load(f"{path}{learner}")) for path in (two, one))
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
        told = [json.loads(Path(f"{path}{learner}.json").read_text()) for path in (two, one)]
        assert told[0]["train"] == pytest.approx(told[1]["train"], abs=1e-6)
        assert told[0]["validation"] == pytest.approx(told[1]["validation"], abs=1e-6)
        assert told[1]["rows"] == 6 * 52
        assert told[0]["rows"] == 6 * 28  # 9 of every 17, and the last row: the other has none


def test_distributed_needs_processes() -> None:
    with pytest.raises(RuntimeError, match="init_process_group"):
        fitted(rows(), distributed=True)


def test_processes_exchange_tensors_that_do_not_lie_in_one_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dist = torch.distributed
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_backend", lambda: "gloo")
    monkeypatch.setattr(dist, "all_reduce", lambda x: x.view(-1).mul_(2.0))  # as many twins
    monkeypatch.setattr(dist, "broadcast", lambda x, src: x.view(-1).fill_(src))
    whole = torch.arange(6.0).view(2, 3)
    pf.Team(together=True).add_up([whole.t()])
    assert torch.equal(whole, 2 * torch.arange(6.0).view(2, 3))
    pf.Team(together=True).follow_first([whole.t()])
    assert not whole.any()
