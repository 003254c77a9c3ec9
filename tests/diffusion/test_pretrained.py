"""Masked language models of `transformers`: loaded by folder, evaluated, and never run unasked."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from tiny_models import MASK, WORDS, save_bert

import pcflow as pf
from pcflow_diffusion import CircuitHead, Projection, fingerprint
from pcflow_diffusion.errors import CheckpointError, CouplingError, ShapeMismatch, TokenizerMismatch
from pcflow_diffusion.evaluate import gap_of_text, setting
from pcflow_diffusion.evaluate.__main__ import main as command_line
from pcflow_diffusion.evaluate.setting import asked, check_head
from pcflow_diffusion.models import load_pretrained

TEXT = "the cat sat . the dog ran . "


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def head_for(tokenizer: object, vocabulary_size: int = len(WORDS), length: int = 8) -> CircuitHead:
    model = pf.compile(pf.hmm(length, 2, pf.Categorical(vocabulary_size)))
    return CircuitHead(model, MASK, Projection(sweeps=3), tokenizer=fingerprint(tokenizer))


def test_a_model_is_its_logits_by_its_own_vocabulary(tmp_path: Path) -> None:
    model = save_bert(tmp_path, vocabulary_size=14)
    backbone, tokenizer, most = load_pretrained(str(tmp_path))
    assert most == 160
    assert (tokenizer.vocabulary_size, tokenizer.mask_token_id) == (14, MASK)
    assert tokenizer.vocabulary == [*WORDS, "", "", ""]
    tokens = tokenizer.encode("the cat [MASK] dog")
    assert tokens.tolist() == [5, 6, MASK, 7]
    assert tokenizer.decode(tokens) == "the cat_dog"
    with torch.no_grad():
        wanted = model(tokens[None]).logits
    torch.testing.assert_close(backbone(tokens[None]), wanted)
    shifted = load_pretrained(str(tmp_path), right_shift=True).backbone(tokens[None])
    torch.testing.assert_close(shifted[:, 1:], wanted[:, :-1])
    assert fingerprint(tokenizer) == fingerprint(tmp_path)


def test_of_two_who_say_how_much_a_model_sees_the_more_careful_is_believed(tmp_path: Path) -> None:
    """RoBERTa has 514 positions, of which two are never used: its tokenizer says 512."""
    save_bert(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {"model_max_length": 158}), encoding="utf-8")
    assert load_pretrained(str(tmp_path)).most_tokens == 158
    path.write_text(json.dumps(config | {"model_max_length": 10**30}), encoding="utf-8")
    assert load_pretrained(str(tmp_path)).most_tokens == 160


def test_somebody_must_say_which_token_is_the_mask(tmp_path: Path) -> None:
    save_bert(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    del config["mask_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match="which token is the mask"):
        load_pretrained(str(tmp_path))
    assert load_pretrained(str(tmp_path), mask_token_id=3).tokenizer.mask_token_id == 3


CODE = """
from pathlib import Path
from transformers import BertConfig, BertForMaskedLM
Path({trace!r}).touch()
class OwnConfig(BertConfig):
    model_type = "own"
class Own(BertForMaskedLM):
    config_class = OwnConfig
"""


def test_code_of_a_model_is_run_on_request_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, trace = tmp_path / "own_model", tmp_path / "trace"
    save_bert(folder)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hf"))
    (folder / "own.py").write_text(CODE.format(trace=str(trace)), encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    own = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.Own"}
    told = config | {"model_type": "own", "auto_map": own}
    (folder / "config.json").write_text(json.dumps(told), encoding="utf-8")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody is asked"))
    with pytest.raises(ValueError):
        load_pretrained(str(folder))
    assert not trace.exists()
    found = load_pretrained(str(folder), trust_remote_code=True)
    assert trace.exists() and found.tokenizer.vocabulary_size == len(WORDS)


def test_heads_for_something_else_are_refused(tmp_path: Path) -> None:
    save_bert(tmp_path, vocabulary_size=14)
    tokenizer = load_pretrained(str(tmp_path)).tokenizer
    check_head(head_for(tokenizer, 14), tokenizer)
    with pytest.raises(ShapeMismatch, match="14"):
        check_head(head_for(tokenizer), tokenizer)
    other = head_for(tokenizer, 14)
    other.tokenizer = "sha256:0"
    with pytest.raises(TokenizerMismatch):
        check_head(other, tokenizer)
    other.modulation = torch.nn.Identity()
    with pytest.raises(CouplingError, match="modulated"):
        asked(Namespace(head=other))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A model, a head for it, and a text."""
    found = {name: tmp_path / name for name in ("model", "head", "text", "out.png")}
    save_bert(found["model"])
    found["text"].write_text(TEXT * 1500, encoding="utf-8")
    head_for(load_pretrained(str(found["model"])).tokenizer).save(found["head"])
    return found


@pytest.mark.usefixtures("in_small")
@pytest.mark.parametrize(("named", "held"), [(True, setting.HELD), (False, 0)])
def test_the_gap_of_a_model(
    files: dict[str, Path],
    named: bool,
    held: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(gap_of_text, "RATIOS", [0.5])
    monkeypatch.setattr(setting, "HELD", held)
    monkeypatch.setattr(setting, "LISTED", 6)
    options = ["--model", files["model"], "--text", files["text"], "--out", files["out.png"]]
    options += ["--head", files["head"]] if named else ["--states", 3]
    command_line(["gap", *map(str, options)])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    nats = {row.split(" | ")[0][2:]: float(row.split(" | ")[1].split()[0]) for row in rows[1:]}
    assert (setting.SAVED in nats) == named and files["out.png"].is_file()
    assert nats["log-linear, fitted"] < nats["factorised, one step"]  # random weights, real text


@pytest.mark.usefixtures("in_small")
def test_few_steps_of_a_model(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", files["model"], "--text", files["text"], "--out", files["out.png"]]
    options += ["--head", files["head"], "--judge-minutes", 0.01, "--repeats", 1]
    with pytest.raises(SystemExit):
        command_line(["few-step", *map(str, options), "--steps", "9"])
    assert "1 to 8" in capsys.readouterr().err
    command_line(["few-step", *map(str, options), "--steps", "2"])
    assert f"| {setting.SAVED} |" in capsys.readouterr().out


def test_what_contradicts_itself_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command_line(["gap", "--model", "folder", "--train"])
    assert "--train" in capsys.readouterr().err


def test_a_head_that_cannot_be_read_is_refused_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad"
    bad.write_text("no head")
    for name, why in ((bad, "does not describe a head"), (tmp_path, "No such file")):
        with pytest.raises(SystemExit):
            command_line(["gap", "--head", str(name)])
        assert why in capsys.readouterr().err
