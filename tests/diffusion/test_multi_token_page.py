"""What docs/multi_token.md has people paste runs as it stands."""

import re
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs" / "multi_token.md"


def test_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers", reason="needs pcflow[plugs]")
    blocks = re.findall(
        r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    assert len(blocks) == 3
    known: dict[str, object] = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for lines in blocks:
            exec(lines, known)
    said = capsys.readouterr().out
    assert float(re.findall(r"\((.*) characters per call\)", said)[0]) > 1.5
    assert "torch.Size([3, 17])" in said
