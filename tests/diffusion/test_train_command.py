"""`python -m pcflow_diffusion.train`: one command, stopped in every way, to the same head."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_models import MASK, WORDS, save_bert

from pcflow_diffusion import CircuitHead, fingerprint
from pcflow_diffusion.train import __main__ as command
from pcflow_diffusion.train.report import News

ROOT = Path(__file__).parents[2]
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


def start(arguments: list[str], processes: int = 0) -> "subprocess.Popen[bytes]":
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    whole = [sys.executable, *(torchrun if processes else []), "-m", "pcflow_diffusion.train"]
    return subprocess.Popen([*whole, *arguments], env=environment, stdout=subprocess.DEVNULL)


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
    nats = dict(re.findall(r"^\| (.*) \| ([0-9.]+) \|$", told.out, re.MULTILINE))
    assert float(nats["circuit, held-out text"]) < float(nats["unigram, held-out text"])
    assert (tmp_path / "new" / "head.png").read_bytes()[:4] == b"\x89PNG"
    lines = told.out[told.out.index("from pcflow_diffusion") :]
    texts = {"model": _flat(head.vocabulary_size), "prompt": torch.zeros(1, 6, dtype=torch.long)}
    exec(lines.replace("128", "12").replace("16", "2"), texts)
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
    assert re.search(r"to do +[0-9.]+ epochs in \d+ parts", told)
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {"head.tokenizer.json", "tokens"}


def test_minutes_are_kept_to(text: Path, tmp_path: Path) -> None:
    begun = time.monotonic()
    out = tmp_path / "head.safetensors"
    assert command.main(asked(text, out, "--minutes", "0.05")) == 0
    plan = json.loads((tmp_path / "head.plan.json").read_text())["plan"]
    assert plan["parts"] * plan["part_seconds"] < 3 + plan["part_seconds"]
    assert time.monotonic() - begun < 60  # on a machine that does much else


def test_killed_and_started_again_it_makes_the_same_head(text: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole" / "head.safetensors", tmp_path / "head.safetensors"
    more = ("--epochs", "40", "--checkpoint-minutes", "0")
    undisturbed = start(asked(text, whole, *more))
    kills = 0
    for wait in (0.0, 0.2):  # in the middle of whatever it does then
        before = _changed(tmp_path / "head.checkpoint")
        process = start(asked(text, out, *more))
        while _changed(tmp_path / "head.checkpoint") == before and process.poll() is None:
            time.sleep(0.005)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL and not out.exists()
    assert kills == 2  # none had finished by itself
    assert start(asked(text, out, *more)).wait() == 0
    assert undisturbed.wait() == 0
    assert out.read_bytes() == whole.read_bytes()


def _changed(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def test_two_processes_make_what_one_makes(text: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one" / "head.safetensors", tmp_path / "two" / "head.safetensors"
    alone = start(asked(text, one))
    together = start(asked(text, two), processes=2)
    assert alone.wait() == 0
    assert together.wait() == 0
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
    assert command.main(asked(text, out, *more)) == 0
    assert out.read_bytes() == whole.read_bytes()


def test_a_run_of_other_settings_is_refused(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "head.safetensors"
    assert command.main(asked(text, out)) == 0
    assert command.main(asked(text, out, "--states", "5")) == 1
    told = capsys.readouterr().err
    assert "was begun with states 4, not 5" in told and "another --out" in told
    assert command.main(asked(text, tmp_path / "other.safetensors", "--states", "5")) == 0


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
    arguments = asked(text, tmp_path / "head.safetensors", *bert, "--blocks", "200")
    arguments += ["--coupling", "product", "--conditional-epochs", "3"]
    place = arguments.index("--tokenizer")  # that of the backbone is taken
    del arguments[place : place + 2]
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
