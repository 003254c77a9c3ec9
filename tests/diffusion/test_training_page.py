"""What docs/training.md has people paste at toy size runs as it stands, in less time."""

import re
import shlex
from pathlib import Path

import pytest

from pcflow_diffusion.train import __main__ as command

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(python|bash)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pydoc_data import topics

    few = dict(sorted(topics.topics.items())[:12])
    monkeypatch.setattr(topics, "topics", few)
    monkeypatch.chdir(tmp_path)
    known: dict[str, object] = {}
    commands = 0
    for kind, lines in BLOCKS:
        if kind == "python":
            exec(lines, known)
        elif "--text toy" in lines:
            asked = lines.partition("pcflow_diffusion.train ")[2].replace("0.5", "0.05")
            assert command.main([*shlex.split(asked), "--device", "cpu"]) == 0
            commands += 1
    assert commands == 1
    head = known["head"]
    assert (head.length, head.vocabulary_size) == (16, 256)  # type: ignore[attr-defined]


def test_what_the_page_has_people_type_is_understood() -> None:
    whole = [lines for kind, lines in BLOCKS if kind == "bash"]
    calls = re.findall(r"pcflow_diffusion.train (.*?)\n(?! )", "".join(whole), re.DOTALL)
    assert len(calls) >= 5
    for call in calls:
        command.parse(shlex.split(call.replace("\\\n", " ")))
    source = Path(command.__file__).read_text(encoding="utf-8")
    options = set(re.findall(r"\"(--[a-z-]+)\"", source))
    told = set(re.findall(r"`(--[a-z-]+)", PAGE)) - {"--nproc-per-node"}
    assert len(told) > 15 and told <= options
