"""How far a fit has come, told on the way: a bar of rows, if anybody looks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from pcflow.learn.batch import Batch


class Progress:
    """A bar that counts rows, so that the time left is known before the first epoch ends.

    Args:
        shown: whether there is one; None if only where standard error is a terminal.
        rows: how many all epochs have together; None if that is not known.
        begun: how many of them are over.
    """

    def __init__(self, shown: bool | None, rows: int | None, begun: int) -> None:
        """Draw it; where there is none, tqdm is not even imported."""
        self.bar: Any = None
        if _is_terminal() if shown is None else shown:
            from tqdm import tqdm

            self.bar = tqdm(total=rows, initial=begun, unit="row", unit_scale=True, desc="fit")

    def counted(self, batches: Iterator[Batch], times: int) -> Iterator[Batch]:
        """The batches; each counts, so many times, when the next one is asked for."""
        for batch in batches:
            yield batch
            if self.bar is not None:
                self.bar.update(len(batch) * times)

    def tell(self, **numbers: str) -> None:
        """Write them behind the bar."""
        if self.bar is not None:
            self.bar.set_postfix(numbers, refresh=False)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.close()


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()
