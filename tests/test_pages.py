"""Every block of Python on every page runs as a reader pastes it, from top to bottom.

What a page takes for granted it says once, in a comment `<!-- before`. A block that is titled as a
file is a script of its own. Text below a block is what it printed. Blocks that nobody can run
everywhere have a title that says what they need; they are listed here, and compiled.
"""

import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import settings
from processes import ends, start

import pcflow as pf

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
ELSEWHERE = {  # run with more around them than a page can hold
    "docs/pictures.md": "tests/test_pictures_page.py",
    "docs/plugs.md": "tests/diffusion/test_plugs_page.py",
    "docs/training.md": "tests/diffusion/test_training_page.py",
}
EXTRAS = {"docs/diffusion.md": "transformers", "docs/multi_token.md": "transformers"}
NOT_RUN = {"docs/diffusion.md": ["with an account on the hub"]}

FENCE = re.compile(
    r"^<!-- before\n(?P<before>.*?)^-->$"
    r"|^```(?P<kind>\w*)(?: title=\"(?P<title>[^\"\n]*)\")?\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
Known = dict[str, Any]


class Block(NamedTuple):
    """A piece of a page."""

    kind: str  # before, python, text, bash, ...
    title: str
    code: str  # below as many empty lines as stand above it on the page


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        start = found.start("before" if found["kind"] is None else "code")
        code = found["before"] or found["code"] or ""
        yield Block(
            found["kind"] if found["before"] is None else "before",
            found["title"] or "",
            "\n" * text.count("\n", 0, start) + code,
        )


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def pages() -> list[Path]:
    all_pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
    run = [page for page in all_pages if name_of(page) not in ELSEWHERE]
    return [page for page in run if any(block.kind == "python" for block in blocks(page))]


def check_readme(known: Known) -> None:
    words = {tuple(words) for words in known["cities"].tolist()}
    assert {tuple(text.tolist()) for text in known["texts"]} <= words  # no San York
    assert known["models"].log_count == pytest.approx(math.log(4))


def check_learning(known: Known) -> None:
    assert known["result"].skipped
    move = next(bank for bank in known["steps"].banks if bank.shape == (1, 2, 2))
    torch.testing.assert_close(move[0].exp(), torch.tensor([[0.9, 0.1], [0.0, 1.0]]))


def check_sequences(known: Known) -> None:
    *drawn, last = known["__printed__"].split("\n")
    assert len(drawn) == 3 and not last
    assert all(word.isalpha() or not word for word in drawn)
    states = pf.viterbi(known["learned"], known["rows"], known["lengths"]).states
    assert states[:, 0].unique().tolist() == [0]


def check_files(known: Known) -> None:
    assert math.exp(pf.entropy(known["rule"])) == pytest.approx(5.0)
    assert known["log_partition"] == pytest.approx(math.log(8))


def check_multi_token(known: Known) -> None:
    assert float(re.findall(r"\((.*) characters per call\)", known["__printed__"])[0]) > 1.5
    assert "torch.Size([3, 17])" in known["__printed__"]


def outcome(query: str, known: Known) -> str:
    """What becomes of a query that is written in a header."""
    try:
        found = eval(query, known)
    except pf.PropertyRequired:
        return "refused"
    return "bound" if isinstance(found, pf.MPE) and not found.exact else "exact"


def proved(circuit: pf.Circuit) -> str:
    properties = circuit.properties
    names = {
        "structured": properties.structured_decomposable,
        "deterministic": properties.deterministic,
        "omni-compatible": properties.omni_compatible,
    }
    return ", ".join(name for name, proof in names.items() if proof) or "neither"


def check_guarantees(known: Known) -> None:
    """The table of models is what happens if its cells are run."""
    text = (ROOT / "docs/guarantees.md").read_text(encoding="utf-8")
    table = text[text.index("| `p` |") :].split("\n\n")[0].splitlines()
    head, _, *models = [line.strip("| ").split(" | ") for line in table]
    assert len(models) >= 15
    for name, properties, *told in models:
        known["p"] = eval(name.strip("`"), known)
        known["model"] = pf.compile(known["p"])
        assert proved(known["p"]) == properties, name
        for cell, queries in zip(told, head[2:], strict=True):
            for query in re.findall("`(.*?)`", queries):
                assert outcome(query, known) == cell, (name, query)


CHECKS: dict[str, Callable[[Known], None]] = {
    "README.md": check_readme,
    "docs/files.md": check_files,
    "docs/guarantees.md": check_guarantees,
    "docs/learning.md": check_learning,
    "docs/multi_token.md": check_multi_token,
    "docs/sequences.md": check_sequences,
}


@pytest.fixture(autouse=True)
def few_examples() -> Iterator[None]:
    """The laws that people paste, asked of fewer cases than they would see."""
    usual = settings.get_current_profile_name()
    settings.register_profile("pages", settings.get_profile(usual), max_examples=5)
    settings.load_profile("pages")
    yield
    settings.load_profile(usual)


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty folder, and the environment that torchrun gives to the only process."""
    monkeypatch.chdir(tmp_path)
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def same_words(found: str, told: str) -> bool:
    return found.split() == told.split()


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_a_page_runs_from_top_to_bottom(
    page: Path, alone: None, capsys: pytest.CaptureFixture[str]
) -> None:
    if name_of(page) in EXTRAS:
        pytest.importorskip(EXTRAS[name_of(page)], reason="pip install 'pcflow[plugs]'")
    known: Known = {"__name__": "pasted"}
    said = ""
    for kind, title, code in blocks(page):
        if kind == "text" and said:
            assert same_words(said, code), f"{page}: printed\n{said}"
        if kind not in ("before", "python"):
            continue
        program = compile(code, page, "exec")
        if title not in NOT_RUN.get(name_of(page), []):
            exec(program, {"__name__": "__main__"} if title.endswith(".py") else known)
        said = capsys.readouterr().out
        known["__printed__"] = known.get("__printed__", "") + said
    for law in [value for name, value in known.items() if name.startswith("test_")]:
        law()
    if name_of(page) in CHECKS:
        CHECKS[name_of(page)](known)


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_a_page_says_what_it_takes_for_granted_once(page: Path) -> None:
    kinds = [block.kind for block in blocks(page) if block.kind in ("before", "python")]
    assert "before" not in kinds[1:]
    text = page.read_text(encoding="utf-8")
    assert text.count("\n```") == 2 * sum(block.kind != "before" for block in blocks(page))


def test_what_is_not_run_is_told_on_the_page() -> None:
    for name, titles in NOT_RUN.items():
        assert {block.title for block in blocks(ROOT / name)} >= set(titles)
    for name, test in ELSEWHERE.items():
        assert Path(name).name in (ROOT / test).read_text(encoding="utf-8")


def test_the_gallery_shows_every_example() -> None:
    shown = re.findall(r"\(examples/(.*?)\)", (ROOT / "docs/gallery.md").read_text("utf-8"))
    assert sorted(shown) == sorted(path.name for path in ROOT.glob("examples/*.py"))


def run_pytest(folder: Path) -> None:
    """End as pytest does in a folder, and leave there what it said."""
    os.chdir(folder)
    with Path("said.txt").open("w") as said, redirect_stdout(said):
        sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "test_mine.py"]))


def test_the_kit_of_the_readme_passes_in_an_empty_folder(tmp_path: Path) -> None:
    """As its reader runs it: a file of his own, pytest, and no settings but those it makes."""
    code = next(b.code for b in blocks(ROOT / "README.md") if "pcflow.testing" in b.code)
    assert code.count("max_examples=20") == 1
    few = code.replace("max_examples=20", "max_examples=2")
    (tmp_path / "test_mine.py").write_text(few, encoding="utf-8")
    ended = ends([start(run_pytest, tmp_path)])
    assert ended == [0], (tmp_path / "said.txt").read_text()
