"""Density-estimation files, what is read and what is refused; digits."""

from pathlib import Path

import pytest
import torch

import pcflow as pf
from pcflow.data import datasets


def write(folder: Path, **parts: str) -> None:
    for part, text in parts.items():
        (folder / f"some.{part}.data").write_text(text)


def test_three_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, train="0,1,2\n1,0,0\n", valid="1,1,1\n", test="0,0,0\n0,0,1\n")
    found = datasets.read_density_set("some", tmp_path)
    assert torch.equal(found.train, torch.tensor([[0, 1, 2], [1, 0, 0]]))
    assert torch.equal(found.validation, torch.tensor([[1, 1, 1]]))
    assert found.test.shape == (2, 3)
    monkeypatch.setenv("PCFLOW_DATA", str(tmp_path.parent))
    (tmp_path.parent / "debd").symlink_to(tmp_path)
    assert torch.equal(datasets.read_density_set("some").test, found.test)


def test_missing_files_say_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"some\.train\.data.*github\.com"):
        datasets.read_density_set("some", tmp_path)


@pytest.mark.parametrize(
    "train, match",
    [
        ("0,x\n", "train.data"),
        ("0,-1\n", "whole numbers"),
        ("0,1\n0\n", "train.data"),
        ("0,1,1\n", "columns"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, train: str, match: str) -> None:
    write(tmp_path, train=train, valid="1,1\n", test="0,0\n")
    with pytest.raises(pf.FileFormatError, match=match):
        datasets.read_density_set("some", tmp_path)


def test_digits_are_split_and_shuffled() -> None:
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    found = datasets.read_digits()
    assert [len(part) for part in found] == [1197, 300, 300]
    rows = torch.cat(list(found))
    assert rows.dtype == torch.long
    every = torch.from_numpy(load_digits().data).long()
    assert sorted(rows.tolist()) == sorted(every.tolist())
    assert not torch.equal(rows, every)
    assert torch.equal(torch.cat(list(datasets.read_digits(seed=0))), rows)
    assert not torch.equal(torch.cat(list(datasets.read_digits(seed=1))), rows)
