"""`python -m pcflow_diffusion.train`: one command, stopped in every way, to the same head."""

import json
import os
import random
import re
import signal
import sys
import time
from functools import partialmethod
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from processes import ends, start, start_together
from tiny_models import MASK, WORDS, save_bert

import pcflow as pf
from pcflow_diffusion import CircuitHead, fingerprint
from pcflow_diffusion.errors import AlreadyRunning
from pcflow_diffusion.train import StoredLogits, TokenStore, from_text
from pcflow_diffusion.train import __main__ as command
from pcflow_diffusion.train.from_text import TextRun
from pcflow_diffusion.train.lock import locked
from pcflow_diffusion.train.plan import SLOWER, Plan
from pcflow_diffusion.train.report import News

SLOWNESS = st.one_of(st.floats(0.1, 1.2), st.floats(1.3, 50.0))
SIZES = ("--states", "4", "--length", "6", "--batch-size", "16", "--part-steps", "8")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences of a small grammar, in a folder."""
    folder, draw = tmp_path_factory.mktemp("text"), random.Random(0)
    animals, acts = ("cat", "dog"), ("sat", "ran")
    lines = [
        " ".join(f"the {draw.choice(animals)} {draw.choice(acts)} ." for _ in range(4))
        for _ in range(120)
    ]
    rows = "\n".join(json.dumps({"text": line}) for line in lines)
    (folder / "animals.jsonl").write_text(rows, encoding="utf-8")
    return folder


def asked(text: Path, out: Path, *more: str, tokenizer: str = "characters") -> list[str]:
    given = ["--text", str(text), "--tokenizer", tokenizer, "--out", str(out), "--device", "cpu"]
    length = () if "--minutes" in more else ("--epochs", "3")
    return [*given, *SIZES, *length, "--validation", "0.2", *more]


def its_own(arguments: list[str]) -> list[str]:
    """The tokenizer of the backbone, which is taken where none is named."""
    place = arguments.index("--tokenizer")
    return arguments[:place] + arguments[place + 2 :]


def run(arguments: list[str], files: int | None = None) -> NoReturn:
    """The command, killed before it finishes its last one of so many files."""
    finish, left = os.replace, files

    def killed(source: str, to: str) -> None:
        nonlocal left
        if left is not None and (left := left - 1) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        finish(source, to)

    os.replace = killed  # type: ignore[assignment]
    sys.exit(command.main(arguments))


def test_one_command_makes_a_head(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "head.safetensors"
    assert command.main(asked(text, out)) == 0
    told = capsys.readouterr()
    assert told.err == ""  # nothing but lines where nobody looks
    for line in ("states, 6 tokens", "a step ", "the end ", "epoch 3/3: train", "Use it:"):
        assert line in told.out
    head = CircuitHead.load(out)
    assert (head.length, head.mask_token_id) == (6, head.vocabulary_size)
    assert head.top_k == "auto"
    nats = dict(re.findall(r"^\| (.*) \| ([0-9.]+) \|$", told.out, re.MULTILINE))
    assert float(nats["circuit, held-out text"]) < float(nats["unigram, held-out text"])
    assert (tmp_path / "new" / "head.png").read_bytes()[:4] == b"\x89PNG"
    lines = told.out[told.out.index("from pcflow_diffusion") :]
    texts = {"model": _flat(head.vocabulary_size), "prompt": torch.zeros(1, 6, dtype=torch.long)}
    exec(lines.replace("length=128", "length=12").replace("steps=16", "steps=2"), texts)
    assert texts["tokens"].shape == (1, 18)  # type: ignore[attr-defined]

    kept = out.read_bytes()
    out.unlink()
    assert command.main(asked(text, out)) == 0  # all is done, but the head is written again
    assert out.read_bytes() == kept
    again = capsys.readouterr().out
    assert "| circuit, held-out text |" in again and "epoch" not in again.split("the end")[1]


def _flat(size: int):  # type: ignore[no-untyped-def]
    return lambda tokens: torch.zeros(*tokens.shape, size)


def test_a_plan_is_all_that_is_made_if_asked(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "head.safetensors"
    assert command.main(asked(text, out, "--plan", "--minutes", "0.5")) == 0
    told = capsys.readouterr().out
    assert re.search(r"to do +[0-9.]+ epochs? in \d+ parts?", told)
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {"head.tokenizer.json", "tokens"}


def test_minutes_are_kept_to(text: Path, tmp_path: Path) -> None:
    begun = time.monotonic()
    out = tmp_path / "head.safetensors"
    assert command.main(asked(text, out, "--minutes", "0.05")) == 0
    plan = json.loads((tmp_path / "head.plan.json").read_text())["plan"]
    most = 3 * SLOWER + plan["part_seconds"]  # parts that take a little longer are let be
    assert plan["parts"] * plan["part_seconds"] < most
    assert time.monotonic() - begun < 60  # on a machine that does much else


def test_killed_again_and_again_it_makes_the_same_head(text: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole" / "head.safetensors", tmp_path / "head.safetensors"
    more = ("--checkpoint-minutes", "0")
    assert ends([start(run, asked(text, whole, *more))]) == [0]
    codes, files = [], 0  # a run may finish a file less than the one after it
    while not codes or codes[-1] == -signal.SIGKILL:
        codes += ends([start(run, asked(text, out, *more), files := files + 1)])
    assert codes[-1] == 0 and len(codes) > 8  # tokenizer, tokens, plan, checkpoints, head
    assert out.read_bytes() == whole.read_bytes()


def test_two_processes_make_what_one_makes(text: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one" / "head.safetensors", tmp_path / "two" / "head.safetensors"
    together = start_together(2, run, asked(text, two))
    assert command.main(asked(text, one)) == 0
    assert ends(together) == [0, 0]
    found, wanted = (CircuitHead.load(path).model for path in (two, one))
    for ours, theirs in zip(found.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(ours.softmax(-1), theirs.softmax(-1), rtol=1e-6, atol=1e-6)


def test_interrupted_it_keeps_the_best_and_goes_on(
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, out = tmp_path / "whole" / "head.safetensors", tmp_path / "head.safetensors"
    assert command.main(asked(text, whole)) == 0

    def stop(news: News, result: object) -> None:
        if len(result.train) == 4:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    capsys.readouterr()
    more = ("--checkpoint-minutes", "0")
    with monkeypatch.context() as patch:
        patch.setattr(News, "__call__", stop)
        assert command.main(asked(text, out, *more)) == 130
    assert f"Interrupted: {out} is the best so far" in capsys.readouterr().out
    assert CircuitHead.load(out).length == 6
    with monkeypatch.context() as patch:
        patch.setattr(TextRun, "report", stop_at_once)
        assert command.main(asked(text, out, *more)) == 130
    assert "interrupted; the same command goes on" in capsys.readouterr().err
    assert out.read_bytes() == whole.read_bytes()


def stop_at_once(*given: object) -> None:
    raise KeyboardInterrupt


def test_a_run_of_other_settings_is_refused(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "head.safetensors"
    assert command.main(asked(text, out)) == 0
    assert command.main(asked(text, out, "--states", "5")) == 1
    told = capsys.readouterr().err
    assert "was begun with states 4, not 5" in told and "another --out" in told
    assert command.main(asked(text, tmp_path / "other.safetensors", "--states", "5")) == 0


def test_a_tokenizer_is_that_of_the_run(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tokenizers", reason="needs pcflow[subwords]")
    out, made = tmp_path / "head.safetensors", tmp_path / "head.tokenizer.json"
    names = ["train:256", "train:270", "characters", "train:260"]
    for name in names:  # nothing is begun yet
        assert command.main(asked(text, out, "--plan", tokenizer=name)) == 0
    assert command.main(asked(text, out, tokenizer="train:256")) == 0
    kept = made.read_bytes()
    assert CircuitHead.load(out).vocabulary_size == 256
    capsys.readouterr()
    for name in names[1:]:
        assert command.main(asked(text, out, tokenizer=name)) == 1
        assert f"begun with tokenizer 'train:256', not '{name}'" in capsys.readouterr().err
    assert made.read_bytes() == kept


def test_what_is_there_is_not_written_over(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, file = tmp_path / "folder.safetensors", tmp_path / "precious.txt"
    folder.mkdir()
    file.write_text("precious")
    for path in (folder, file):
        assert command.main(asked(text, path)) == 1
        assert f"{path} is there" in capsys.readouterr().err
    assert file.read_text() == "precious"
    assert {path.name for path in tmp_path.iterdir()} == {folder.name, file.name}


def test_two_runs_at_once_share_tokens(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = TokenStore.write

    def twice(*given: object, **more: object) -> object:
        write(*given, **more)  # type: ignore[arg-type]
        return write(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(TokenStore, "write", twice)
    assert command.main(asked(text, tmp_path / "head.safetensors", "--plan")) == 0
    assert len(list((tmp_path / "tokens").iterdir())) == 1


def test_of_two_runs_with_one_head_the_second_is_locked_out(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, lock = tmp_path / "head.safetensors", tmp_path / "head.lock"
    with locked(lock):
        assert command.main(asked(text, out)) == 1
        assert f"{lock} is held by another run" in capsys.readouterr().err
        assert {path.name for path in tmp_path.iterdir()} == {lock.name}
        assert command.main(asked(text, tmp_path / "other.safetensors", "--plan")) == 0
    lock.touch()  # as a killed process leaves it
    assert command.main(asked(text, out)) == 0
    assert not lock.exists()


def hold(lock: Path, said: Connection) -> None:
    with locked(lock):
        said.send("held")
        time.sleep(99)


def test_a_lock_goes_with_its_process(tmp_path: Path) -> None:
    lock, (heard, said) = tmp_path / "lock", Pipe()
    other = start(hold, lock, said)
    assert heard.recv() == "held"
    with pytest.raises(AlreadyRunning, match="lock is held"), locked(lock):
        pass
    other.kill()
    assert ends([other]) == [-signal.SIGKILL]
    assert lock.exists()
    with locked(lock):
        pass
    assert not lock.exists()


def test_documents_end_as_the_tokenizer_says(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_bert(tmp_path / "bert")
    tokenizer, out = str(tmp_path / "bert"), tmp_path / "head.safetensors"
    end, about = WORDS.index("[SEP]"), tmp_path / "bert" / "tokenizer_config.json"

    def ends(*more: str) -> int:
        """How many tokens say that a text ends, if each stands behind one."""
        arguments = asked(text, out, "--plan", *more, tokenizer=tokenizer)
        store = TextRun(command.parse(arguments)).store
        last = store.tokens[store.starts[1:] - 1]
        assert (last == end).sum() == (store.tokens == end).sum()
        return int((last == end).sum())

    assert ends() == 0  # it names none
    assert ends("--end-of-text", "[SEP]") == 120
    about.write_text(json.dumps(json.loads(about.read_text()) | {"eos_token": "[SEP]"}))
    assert ends() == 120
    assert ends("--end-of-text", "") == 0
    assert command.main(asked(text, out, "--plan", tokenizer=tokenizer)) == 0
    assert "documents, each ended by [SEP], of which" in capsys.readouterr().out
    for wrong in ("nothing", "the cat"):
        more = ("--plan", "--end-of-text", wrong)
        assert command.main(asked(text, out, *more, tokenizer=tokenizer)) == 1
        assert f"{wrong!r} is no token of the tokenizer" in capsys.readouterr().err


@given(
    st.integers(1, 500), st.floats(0.01, 100), st.integers(0, 400), st.integers(1, 100), SLOWNESS
)
def test_a_plan_keeps_its_end_where_parts_take_longer(
    parts: int, planned: float, begun: int, more: int, slowness: float
) -> None:
    begun = min(begun, parts - 1)
    done = min(parts, begun + more)
    plan, seconds = Plan(parts, 10, planned, 0.1, None), (done - begun) * planned * slowness
    found = plan.kept_to(begun, done, seconds)
    if slowness < 1.2 or done - begun < 3:
        assert found is plan
    if found is plan:
        return
    assert done < found.parts < parts
    assert found.part_seconds == pytest.approx(planned * slowness)
    late = seconds + (found.parts - done) * found.part_seconds - (parts - begun) * planned
    overdue = seconds - (parts - begun) * planned
    assert late <= max(0.0, overdue) + 1.001 * found.part_seconds  # there is always one more
    assert found.kept_to(done, found.parts, (found.parts - done) * found.part_seconds) is found


def test_a_run_that_becomes_slower_ends_in_time_and_goes_on_alike(
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, out = tmp_path / "whole" / "head.safetensors", tmp_path / "head.safetensors"
    planned = Plan(40, per_epoch=4, part_seconds=1.0, step_seconds=0.1, memory=None)
    monkeypatch.setattr(from_text, "make_plan", lambda *given, **more: planned)
    told = News.__call__

    def slow(news: News, result: object, stop: int = 0) -> None:
        """Every part takes three seconds by the clock."""
        told(news, result)  # type: ignore[arg-type]
        news.started = time.monotonic() - 3.0 * (len(news.train) - (news.begun or 0))
        if len(news.train) == stop:
            raise KeyboardInterrupt

    monkeypatch.setattr(News, "__call__", slow)
    minutes = ("--minutes", "1", "--checkpoint-minutes", "1")
    assert command.main(asked(text, whole, *minutes)) == 0
    assert "slower than planned: 13 parts" in capsys.readouterr().out
    plan = json.loads((tmp_path / "whole" / "head.plan.json").read_text())["plan"]
    assert (plan["parts"], plan["part_seconds"]) == (13, pytest.approx(3.0, abs=0.1))
    with monkeypatch.context() as patch:
        patch.setattr(News, "__call__", partialmethod(slow, stop=9))
        assert command.main(asked(text, out, *minutes)) == 130
    assert command.main(asked(text, out, *minutes)) == 0
    assert out.read_bytes() == whole.read_bytes()


def test_epochs_are_as_many_as_asked(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asks = asked(text, tmp_path / "head.safetensors", "--epochs", "700", "--plan")
    assert command.main(asks) == 0
    assert "to do     700 epochs" in capsys.readouterr().out


def test_what_is_wrong_is_said_in_a_line(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "head.safetensors"

    def wrong(*more: str, code: int, tokenizer: str = "characters") -> str:
        try:
            found = command.main(asked(text, out, *more, tokenizer=tokenizer))
        except SystemExit as stop:
            found = int(stop.code or 0)
        assert found == code
        told = capsys.readouterr().err
        assert "Traceback" not in told
        return told

    assert "did you mean --states?" in wrong("--statez=3", code=2)
    assert "--minutes or --epochs" in wrong("--minutes=3", code=2)
    assert "--choose needs a --backbone" in wrong("--choose", "drawing", code=2)
    assert "0 is below 1" in wrong("--states", "0", code=2)
    assert "nowhere: " in wrong("--device", "nowhere", code=2)
    assert "more than 63 bits" in wrong("--seed", str(1 << 64), code=2)
    assert "nan is negative or no number" in wrong("--checkpoint-minutes", "nan", code=2)
    assert "is not a text encoding" in wrong("--encoding", "hex", code=1)
    assert "no text in a field 'body'" in wrong("--field", "body", code=1)
    assert "validation must be in (0, 1)" in wrong("--validation", "1", code=1)
    (text / "latin.txt").write_bytes("né".encode("latin-1"))
    try:
        assert "latin.txt is not utf-8 text: byte 1; say --encoding" in wrong(code=1)
    finally:
        (text / "latin.txt").unlink()
    pytest.importorskip("tokenizers", reason="needs pcflow[subwords]")
    assert "did you mean characters?" in wrong(code=1, tokenizer="character")
    (tmp_path / "tokenizer.json").write_text("{}")
    assert "no tokenizer of `tokenizers`" in wrong(code=1, tokenizer=str(tmp_path))


def test_without_the_library_it_says_what_to_install(
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    monkeypatch.delitem(sys.modules, "pcflow_diffusion.models.subwords", raising=False)
    for name in ("train:300", str(tmp_path)):
        arguments = asked(text, tmp_path / "head.safetensors", tokenizer=name)
        assert command.main(arguments) == 1
        assert "pip install 'pcflow[subwords]'" in capsys.readouterr().err


def test_subwords_of_the_text(text: Path, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="needs pcflow[subwords]")
    out = tmp_path / "head.safetensors"
    assert command.main(asked(text, out, tokenizer="train:300")) == 0
    head = CircuitHead.load(out)
    assert head.tokenizer == fingerprint(tmp_path / "head.tokenizer.json")
    other = tmp_path / "other.safetensors"  # a tokenizer that is there says the same
    made = str(tmp_path / "head.tokenizer.json")
    assert command.main(asked(text, other, tokenizer=made)) == 0
    assert other.read_bytes() == out.read_bytes()
    assert len(list((tmp_path / "tokens").iterdir())) == 1  # which was not encoded again


def test_a_folder_tells_how_many_tokens_the_model_has(text: Path, tmp_path: Path) -> None:
    save_bert(tmp_path / "bert", vocabulary_size=14)
    out = tmp_path / "head.safetensors"
    assert command.main(asked(text, out, tokenizer=str(tmp_path / "bert"))) == 0
    head = CircuitHead.load(out)
    assert (head.vocabulary_size, head.mask_token_id) == (14, MASK)
    assert head.tokenizer == fingerprint(tmp_path / "bert")


def test_a_backbone_is_asked_and_a_coupling_chosen(
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    save_bert(tmp_path / "bert")
    bert = ("--backbone", str(tmp_path / "bert"), "--choose", "likelihood", "--context", "4")
    arguments = its_own(asked(text, tmp_path / "head.safetensors", *bert, "--blocks", "200"))
    arguments += ["--coupling", "product", "--conditional-epochs", "3"]
    assert command.main(arguments) == 0
    told = capsys.readouterr().out
    found = re.findall(r"^  (.*): ([0-9.]+)$", told, re.MULTILINE)
    assert [name.split(";")[0].split(",")[0] for name, _ in found][:2] == ["product", "product"]
    before, after, chosen = (float(value) for _, value in found)
    assert after < before and chosen <= after + 1e-3
    head = CircuitHead.load(tmp_path / "head.safetensors")
    assert (head.vocabulary_size, head.mask_token_id) == (len(WORDS), MASK)
    assert head.tokenizer == fingerprint(tmp_path / "bert")
    kept = (tmp_path / "head.safetensors").read_bytes()
    assert command.main(arguments) == 0
    assert (tmp_path / "head.safetensors").read_bytes() == kept


def test_what_a_backbone_cannot_be_asked_is_refused_before_anything_is_learned(
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    save_bert(tmp_path / "bert")
    asks = asked(text, tmp_path / "head.safetensors", "--backbone", str(tmp_path / "bert"))
    asks = its_own(asks)
    assert command.main([*asks, "--context", "5000"]) == 1
    assert "--context 5000 and --length 6 are 5006 tokens" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(TextRun, "learn", stop_at_once)
        patch.setattr("pcflow_diffusion.train.against.FEWEST", 10**9)
        assert command.main([*asks, "--context", "4"]) == 1
    assert "tokens in a row" in capsys.readouterr().err


def test_tokens_that_are_not_kept_are_left_out_of_the_report(
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    save_bert(tmp_path / "bert")
    capsys.readouterr()
    bert = ("--backbone", str(tmp_path / "bert"), "--context", "4", "--blocks", "200")
    arguments = asked(text, tmp_path / "head.safetensors", *bert, "--top-k", "3")
    assert command.main(its_own([*arguments, "--conditional-epochs", "1"])) == 0
    told, bars = capsys.readouterr()
    assert bars == ""  # where nobody looks
    share = re.search(r"([0-9.]+)% are left out, as they are not among the 3 that were kept", told)
    assert share is not None and 0 < float(share[1]) < 100
    stored = StoredLogits(tmp_path / "head.logits" / "held-out")
    blocks = stored[:]
    assert isinstance(blocks.logits, pf.Potentials)
    masked = blocks.x == MASK
    kept = (blocks.logits.categories == blocks.x0.unsqueeze(-1)).any(dim=-1)
    assert f"{(~kept & masked).sum() / masked.sum():.1%} are left out" in told
    found = re.findall(r"^  (.*): ([0-9.]+)$", told, re.MULTILINE)
    head = CircuitHead.load(tmp_path / "head.safetensors")
    assert len(found) == 2 and head.top_k == 3
    log_q = head.log_prob(blocks.logits, blocks.x, blocks.x0, at=kept & masked)
    nats = float(-log_q.detach().sum() / (kept & masked).sum())
    assert float(found[1][1]) == pytest.approx(nats, abs=1e-3)
