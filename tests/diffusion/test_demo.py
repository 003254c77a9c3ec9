"""The demo on a text of one's own, made small; CI runs it whole."""

from pathlib import Path

import pytest

from pcflow_diffusion import demo
from pcflow_diffusion.errors import TextError
from pcflow_diffusion.evaluate.figure import draw_demo
from pcflow_diffusion.evaluate.gap import CIRCUIT, FACTORISED, SEQUENTIAL
from pcflow_diffusion.evaluate.setting import prepare

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.usefixtures("in_small")
def test_a_text_of_ones_own_gives_a_table_samples_and_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "RATIOS", [0.5])
    monkeypatch.setattr(demo, "STEPS", [1])
    text, picture = tmp_path / "text.txt", tmp_path / "demo.png"
    text.write_text("the cat sat. " * 900, encoding="utf-8")
    options = ["--text", text, "--out", picture, "--states", 32, "--minutes", 0.05]
    demo.main([str(option) for option in options])
    printed = capsys.readouterr().out
    assert "The rest will take about " in printed
    rows = [line for line in printed.splitlines() if line.startswith("| ")]
    methods = [row.split(" | ")[0].strip("| ") for row in rows]
    for wanted in (FACTORISED, SEQUENTIAL, CIRCUIT, "ratio", "projection, 2 sweeps"):
        assert wanted in methods
    assert picture.read_bytes().startswith(PNG)
    alone = next(row for row in rows if row.startswith(f"| {CIRCUIT}"))
    assert float(alone.split("|")[2].split()[0]) < 0.5  # it can count to thirteen
    independent, coupled = (int(row.split("|")[2].strip(" %")) for row in rows[-2:])
    assert coupled > independent + 20  # a circuit writes more words that it has read


def test_a_text_too_short_to_be_judged_on_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("a short one. " * 200, encoding="utf-8")
    with pytest.raises(TextError, match="held-out tenth has 260 characters"):
        prepare(text, train=False, minutes=1e9, seed=0)


def test_an_old_picture_survives_a_failed_drawing(tmp_path: Path) -> None:
    picture = tmp_path / "demo.png"
    picture.write_bytes(b"old")
    with pytest.raises(ValueError):
        draw_demo(picture, {FACTORISED: [1.0, 2.0]}, [0.5], {}, {}, [1])
    assert picture.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [picture]
    table = {name: [1.0] for name in (FACTORISED, SEQUENTIAL, CIRCUIT, "ratio")}
    draw_demo(picture, table, [0.5], {"a": [1.0]}, {"a": [0.5]}, [1])
    assert picture.read_bytes().startswith(PNG)
