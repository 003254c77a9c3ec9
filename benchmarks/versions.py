"""The packages as they were at another commit, in a folder."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def checkout(commit: str | None) -> Iterator[Path]:
    """A folder with both packages as they were then; none: as they are."""
    if commit is None:
        yield ROOT
        return
    packages = ["pcflow", "pcflow_diffusion"]
    command = ["git", "-C", str(ROOT), "archive", commit, *packages]
    packed = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
        yield Path(folder).resolve()
