"""Standard data, read from files that you have."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pcflow.errors import FileFormatError

SOURCE = "https://github.com/arranger1044/DEBD"


class Splits(NamedTuple):
    """Rows [N, D] to learn from, to choose by, and to report.

    Attributes:
        train: training rows.
        validation: validation rows.
        test: test rows.

    Examples:
        >>> train, validation, test = Splits(*torch.zeros(10, 3).split([8, 1, 1]))
        >>> len(train)
        8
    """

    train: Tensor
    validation: Tensor
    test: Tensor


def read_density_set(name: str, folder: str | Path | None = None) -> Splits:
    r"""One of the binary density-estimation sets, or any three files of that format.

    The files are NAME.train.data, NAME.valid.data and NAME.test.data: a row a line, whole numbers
    separated by commas.

    Args:
        name: for example "nltcs".
        folder: where the files are; by default `debd` in the folder that the environment
            variable PCFLOW_DATA names.

    Returns:
        The three parts, whole numbers [N, D] each.

    Raises:
        FileNotFoundError: if there are no such files; says where to get them.
        FileFormatError: if a file holds anything but rows of whole numbers, equally many in each.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for part in ("train", "valid", "test"):
        ...         _ = Path(folder, f"coins.{part}.data").write_text("0,1\n1,1\n")
        ...     read_density_set("coins", folder).train
        tensor([[0, 1],
                [1, 1]])
    """
    where = Path(folder) if folder is not None else Path(os.environ.get("PCFLOW_DATA", "")) / "debd"
    parts = [_read(where / f"{name}.{part}.data") for part in ("train", "valid", "test")]
    if len({part.shape[1] for part in parts}) > 1:
        raise FileFormatError(f"{name}: the files have {[part.shape[1] for part in parts]} columns")
    return Splits(*parts)


def read_digits(seed: int = 0) -> Splits:
    """The 8 x 8 handwritten digits that come with scikit-learn, without their labels.

    Rows [N, 64] of whole numbers 0..16, shuffled: 1,197 to learn from, 300 to choose by, and 300 to
    report.

    Args:
        seed: of the shuffle.

    Returns:
        The three parts, whole numbers [N, 64] each.

    Raises:
        ImportError: if scikit-learn is not installed.

    Examples:
        >>> read_digits().train.shape
        torch.Size([1197, 64])
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "read_digits needs scikit-learn: pip install 'pcflow[sklearn]'"
        ) from error
    rows = torch.from_numpy(load_digits().data).long()
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    return Splits(*rows[order].split([len(rows) - 600, 300, 300]))


def _read(path: Path) -> Tensor:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there. The density-estimation sets are at {SOURCE}; name their folder, "
            "or set PCFLOW_DATA to the folder that holds it as debd"
        )
    try:
        rows = np.loadtxt(path, delimiter=",", dtype=np.int64, ndmin=2)
    except ValueError as error:
        raise FileFormatError(f"{path}: {error}") from None
    if rows.size == 0 or (rows < 0).any():
        raise FileFormatError(f"{path}: needs rows of whole numbers from 0 on")
    return torch.from_numpy(rows)
