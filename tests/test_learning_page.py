"""Every block of the page on learning runs as it stands."""

import re
import socket
from pathlib import Path

import matplotlib as mpl
import pytest
import torch

PAGE = Path(__file__).parent.parent / "docs" / "learning.md"


def coins(rows: int, seed: int) -> torch.Tensor:
    """Noisy copies of one bit, some of them lost."""
    generator = torch.Generator().manual_seed(seed)
    bit = torch.randint(2, (rows, 1), generator=generator)
    x = (bit ^ (torch.rand(rows, 9, generator=generator) < 0.1)).double()
    return x.masked_fill(torch.rand(rows, 9, generator=generator) < 0.1, torch.nan)


def test_every_block_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == text.count("```") / 2
    mpl.use("Agg")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    alone = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "WORLD_SIZE": "1"}
    for name, value in alone.items():
        monkeypatch.setenv(name, value)
    known = {"x": coins(120, 0), "held_out": coins(40, 1), "torch": torch}
    try:
        exec("\n".join(blocks), known)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    assert known["result"].skipped  # type: ignore[attr-defined]
    move = next(bank for bank in known["steps"].banks if bank.shape == (1, 2, 2))  # type: ignore[attr-defined]
    torch.testing.assert_close(move[0].exp(), torch.tensor([[0.9, 0.1], [0.0, 1.0]]))
