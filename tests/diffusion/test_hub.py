"""Heads in folders and on the hub: what comes back, what is told of them, and what is refused."""

import inspect
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

import pcflow as pf
from pcflow_diffusion import CharacterTokenizer, CircuitHead, LogLinear, fingerprint
from pcflow_diffusion.errors import CheckpointError, TokenizerMismatch, TypeMismatch

L, V = 3, 4
OURS = CharacterTokenizer("abc\ufffd")
OTHER = CharacterTokenizer("abd\ufffd")


def head_of(seed: int = 0, **settings: Any) -> CircuitHead:
    circuit = pf.hmm(L, 2, pf.Categorical(V), generator=torch.Generator().manual_seed(seed))
    return CircuitHead(pf.compile(circuit), V, **settings)


def same(one: CircuitHead, other: CircuitHead) -> bool:
    logits, x = torch.randn(5, L, V), torch.full((5, L), V)
    x0 = torch.randint(V, (5, L))
    return torch.equal(one.log_prob(logits, x, x0), other.log_prob(logits, x, x0))


def card_of(folder: Path) -> tuple[dict[str, Any], str]:
    """Front matter and text of a card."""
    _, front, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), text


def test_a_folder_holds_the_head_and_what_it_is(tmp_path: Path) -> None:
    head = head_of(coupling=LogLinear(0.75, -0.5), tokenizer=fingerprint(OURS), top_k=3)
    folder = tmp_path / "new" / "head"
    head.save_pretrained(folder, base_model="GSAI-ML/LLaDA-8B-Base", training_text="GSM8K, train")
    again = CircuitHead.from_pretrained(folder, tokenizer=OURS)
    assert same(head, again) and again.tokenizer == head.tokenizer
    front, text = card_of(folder)
    assert front["base_model"] == "GSAI-ML/LLaDA-8B-Base" and front["library_name"] == "pcflow"
    for told in (
        "| base model | GSAI-ML/LLaDA-8B-Base |",
        f"| tokenizer | {fingerprint(OURS)} |",
        "| mask | 4 |",
        "| vocabulary | 4 tokens |",
        "| length | 3 tokens |",
        "| circuit | hidden Markov chain of 2 states, 14 parameters, float32 |",
        "| coupling | LogLinear(a=0.75, b=-0.5) |",
        "| training text | GSM8K, train |",
        'CircuitHead.from_pretrained("head", tokenizer=tokenizer)',
        "arxiv.org/abs/2603.00045",
    ):
        assert told in text
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "head.safetensors"]


def test_a_card_says_what_nobody_said(tmp_path: Path) -> None:
    rows = torch.randint(V, (30, L))
    tree = pf.compile(pf.hclt(rows, 2, pf.Categorical(V)))
    CircuitHead(tree, V).save_pretrained(tmp_path)
    front, text = card_of(tmp_path)
    assert "base_model" not in front
    for about in ("base model", "tokenizer", "training text"):
        assert f"| {about} | not said |" in text


@given(st.text(), st.text())
def test_no_text_breaks_a_card(
    tmp_path_factory: pytest.TempPathFactory, base: str, told: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "card"
    clean = (text.encode("utf-8", "ignore").decode() for text in (base, told))
    base, told = clean
    head_of().save_pretrained(folder, base_model=base, training_text=told)
    front, text = card_of(folder)
    assert front["library_name"] == "pcflow" and front.get("base_model", base) == base
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 13
    assert all(line.replace("\\\\", "").replace("\\|", "").count("|") == 3 for line in table)


@pytest.mark.parametrize("old", ["head.safetensors", "README.md"])
def test_what_was_there_is_replaced_whole_or_not_at_all(
    tmp_path: Path, old: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    head_of(0).save_pretrained(tmp_path)
    before = (tmp_path / old).read_bytes()

    def full(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space"):
        head_of(1).save_pretrained(tmp_path)
    monkeypatch.undo()
    assert (tmp_path / old).read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_another_tokenizer_is_refused_on_request(tmp_path: Path) -> None:
    head_of(tokenizer=fingerprint(OURS)).save_pretrained(tmp_path / "ours")
    head_of().save_pretrained(tmp_path / "unknown")
    assert CircuitHead.from_pretrained(tmp_path / "ours").length == L
    with pytest.raises(TokenizerMismatch, match=fingerprint(OURS)) as refused:
        CircuitHead.from_pretrained(tmp_path / "ours", tokenizer=OTHER)
    assert refused.value.given == fingerprint(OTHER)
    with pytest.raises(TokenizerMismatch, match="does not name"):
        CircuitHead.from_pretrained(tmp_path / "unknown", tokenizer=OURS)
    with pytest.raises(TypeMismatch, match="int"):
        CircuitHead.from_pretrained(tmp_path / "ours", tokenizer=3)


def test_the_file_alone_is_read(tmp_path: Path) -> None:
    head_of().save_pretrained(tmp_path)
    (tmp_path / "README.md").write_bytes(b"\xff---")
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    assert CircuitHead.from_pretrained(tmp_path).length == L
    (tmp_path / "head.safetensors").unlink()
    with pytest.raises(OSError, match=r"head\.safetensors"):
        CircuitHead.from_pretrained(tmp_path)


def test_a_folder_has_no_revisions(tmp_path: Path) -> None:
    """Or who pins one would be given what is there."""
    head_of().save_pretrained(tmp_path)
    with pytest.raises(pf.SettingError, match="revision must be left out"):
        CircuitHead.from_pretrained(tmp_path, revision="main")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A hub in a folder, asked by the signatures of huggingface_hub; it notes what it is asked."""
    real = pytest.importorskip("huggingface_hub", reason="needs pcflow[hub]")
    noted = SimpleNamespace(calls=[], folder=tmp_path / "hub", real=real)

    def instead_of(name: str) -> Any:
        signature = inspect.signature(getattr(real, name))

        def called(*given: Any, **named: Any) -> Any:
            bound = signature.bind(*given, **named)
            noted.calls.append((name, bound.arguments))
            return answers[name](**{"path": None} | bound.arguments)

        return called

    def upload(folder_path: Path, allow_patterns: list[str], **_: Any) -> SimpleNamespace:
        noted.folder.mkdir()
        for name in allow_patterns:
            (noted.folder / name).write_bytes((Path(folder_path) / name).read_bytes())
        return SimpleNamespace(commit_url="https://hub/commit/1")

    answers: dict[str, Any] = {
        "create_repo": lambda repo_id, **_: SimpleNamespace(repo_id=f"me/{repo_id}"),
        "create_branch": lambda **_: None,
        "upload_folder": upload,
        "hf_hub_download": lambda filename, **_: str(noted.folder / filename),
    }
    for name in answers:
        monkeypatch.setattr(real, name, instead_of(name))
    return noted


def test_a_head_goes_to_the_hub_and_comes_back(hub: SimpleNamespace) -> None:
    head = head_of(tokenizer=fingerprint(OURS))
    url = head.push_to_hub("name", revision="v2", private=True, token="t", base_model="a/b")
    assert url == "https://hub/commit/1"
    asked = dict(hub.calls)
    assert list(asked) == ["create_repo", "create_branch", "upload_folder"]
    assert asked["create_repo"]["private"] is True and asked["create_repo"]["exist_ok"] is True
    assert asked["upload_folder"]["repo_id"] == asked["create_branch"]["repo_id"] == "me/name"
    assert asked["upload_folder"]["revision"] == asked["create_branch"]["branch"] == "v2"
    assert {call.get("token") for call in asked.values()} == {"t"}
    assert 'from_pretrained("name"' in card_of(hub.folder)[1]
    hub.calls.clear()
    how = {"cache_dir": "cache", "local_files_only": True, "token": "t", "revision": "0a1b"}
    assert same(head, CircuitHead.from_pretrained("me/name", tokenizer=OURS, **how))  # type: ignore[arg-type]
    ((name, asked),) = hub.calls
    assert name == "hf_hub_download"
    assert asked == {"repo_id": "me/name", "filename": "head.safetensors", **how}


def test_nothing_is_asked_of_the_hub_for_a_main_branch_but_repository_and_upload(
    hub: SimpleNamespace,
) -> None:
    head_of().push_to_hub("name")
    assert [name for name, _ in hub.calls] == ["create_repo", "upload_folder"]


def test_what_is_neither_a_folder_nor_a_name_of_the_hub_is_refused() -> None:
    pytest.importorskip("huggingface_hub", reason="needs pcflow[hub]")
    for name in ("./heads/none", "a/b/c", "/tmp/none"):
        with pytest.raises(CheckpointError, match="neither a folder nor a name"):
            CircuitHead.from_pretrained(name, local_files_only=True)


def test_folders_need_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    head_of().save_pretrained(tmp_path)
    assert CircuitHead.from_pretrained(tmp_path).length == L
    for call in (lambda: CircuitHead.from_pretrained("a/b"), lambda: head_of().push_to_hub("a/b")):
        with pytest.raises(ImportError, match=r"pcflow\[hub\]"):
            call()


def as_file(vocabulary: Any, added: dict[str, int]) -> str:
    """What the library `tokenizers` writes, as far as it is read."""
    listed = [{"id": number, "content": token, "special": True} for token, number in added.items()]
    return json.dumps({"model": {"type": "BPE", "vocab": vocabulary}, "added_tokens": listed})


VOCABULARIES = st.lists(st.text(max_size=3), min_size=2, max_size=6, unique=True)


@given(VOCABULARIES, st.randoms(use_true_random=False))
def test_a_fingerprint_is_of_tokens_and_their_ids_alone(
    tmp_path_factory: pytest.TempPathFactory, tokens: list[str], random: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "tokenizer.json"
    pairs = [(token, number) for number, token in enumerate(tokens)]
    told = fingerprint(SimpleNamespace(get_vocab=lambda: dict(pairs)))
    shuffled = random.sample(pairs, len(pairs))
    assert told == fingerprint(SimpleNamespace(get_vocab=lambda: dict(shuffled)))
    assert told == fingerprint(SimpleNamespace(vocabulary=tokens))
    cut = random.randrange(len(pairs))
    ways = (
        (dict(shuffled), {}),
        (dict(pairs[:cut]), dict(pairs[cut:])),
        ([[t, 0] for t in tokens], {}),
    )
    for vocabulary, added in ways:
        path.write_text(as_file(vocabulary, added), encoding="utf-8")
        assert told == fingerprint(path) == fingerprint(str(path)) == fingerprint(path.parent)
    others = [*tokens[1:], tokens[0]], [*tokens, "new!"], tokens[:-1]
    assert len({told, *(fingerprint(SimpleNamespace(vocabulary=o)) for o in others)}) == 4


def test_ids_count_whatever_kind_of_numbers_they_are() -> None:
    told = {kind: {"a": kind(0), "b": kind(1)} for kind in (int, np.int64, torch.tensor)}
    assert len({fingerprint(SimpleNamespace(get_vocab=told[kind].copy)) for kind in told}) == 1


@pytest.mark.parametrize("vocabulary", [{b"a": 0}, {"a": None, "b": 1}, {"a": 0.5}, ["a"], None])
def test_what_is_no_vocabulary_is_refused(vocabulary: object) -> None:
    with pytest.raises(TypeMismatch, match="tokens and their ids"):
        fingerprint(SimpleNamespace(get_vocab=lambda: vocabulary))


@pytest.mark.parametrize("base", ["../x", "./x", ".", "-x", "a/.."])
def test_a_path_is_no_name_of_a_base_model(base: str, tmp_path: Path) -> None:
    head_of().save_pretrained(tmp_path, base_model=base)
    front, text = card_of(tmp_path)
    assert "base_model" not in front and f"| base model | {base} |" in text


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"model": {"vocab": 3}, "added_tokens": []}', '{"a":' * 9000, "\xff"]
)
def test_files_that_list_no_tokens_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json lists no tokens"):
        fingerprint(tmp_path)


def test_fingerprints_of_tokenizers_and_of_their_files_agree(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="needs pcflow[subwords]")
    one = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, "[UNK]"))
    one.add_special_tokens(["[MASK]"])
    told = fingerprint(one)
    one.enable_truncation(9)
    one.save(str(tmp_path / "tokenizer.json"))
    assert told == fingerprint(one) == fingerprint(tmp_path)
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=one, mask_token="[MASK]")
    assert fingerprint(fast) == told
