"""Texts become documents, tokens on disk and windows, and nothing is lost or doubled on the way."""

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from encodings.aliases import aliases
from itertools import product
from math import log
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pcflow as pf
from pcflow_diffusion.errors import StoreError, TextError, TokenOutOfRange
from pcflow_diffusion.train import Texts, TokenStore, Windows, text_chain, texts, tokens
from pcflow_diffusion.train.against import whole_rows
from pcflow_diffusion.train.baselines import token_nats

WORDS = st.text(st.sampled_from("ab \n\u00e9\u4e2d\U0001f600"), max_size=60)


def letters(some: list[str]) -> list[list[int]]:
    return [[ord(character) - 97 for character in text] for text in some]


def store_of(folder: Path, documents: list[str], size: int = 26, share: float = 0.3) -> TokenStore:
    return TokenStore.write(folder / "tokens", documents, letters, size, validation=share)


@given(WORDS, st.integers(1, 9), st.integers(2, 20))
def test_pieces_are_the_document_however_it_is_read(text: str, chunk: int, piece: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "PIECE", piece)
        chunks = [text[start : start + chunk] for start in range(0, len(text), chunk)]
        found = list(texts._pieces(chunks))
        assert "".join(found) == text
        assert all(len(one) <= piece for one in found)
        assert found == list(texts._pieces([text]))


@given(st.lists(WORDS, min_size=1, max_size=4), st.integers(2, 20), st.booleans())
def test_what_ends_a_document_stands_behind_it_once(
    documents: list[str], piece: int, lines: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        patch.setattr(texts, "PIECE", piece)
        files = [Path(folder, f"{n}.jsonl") for n in range(len(documents))]
        if lines:  # of one file
            files = [files[0]] * len(documents)
        for file, text in zip(files, documents, strict=True):
            with file.open("a") as there:
                there.write(json.dumps({"text": text}) + "\n")
        alone = [[p for p in texts._pieces([text]) if p.strip()] for text in documents]
        wanted = [p for some in alone if some for p in (*some[:-1], some[-1] + "$")]
        assert list(Texts([folder], end="$")) == wanted


@given(WORDS.filter(str.strip), st.integers(1, 7), st.sampled_from(["utf-8", "utf-16-le"]))
def test_a_file_is_read_alike_by_any_chunks(text: str, chunk: int, encoding: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "CHUNK", chunk)
        file = _memory(text.replace("\n", "\r\n").encode(encoding))
        assert "".join(texts._decoded(file, encoding, Path("a"))) == text


@given(WORDS, WORDS, st.integers(1, 7))
def test_a_wrong_byte_is_named(before: str, after: str, chunk: int) -> None:
    content = before.encode() + b"\xff" + after.encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "CHUNK", chunk)
        wanted = f"a.txt is not utf-8 text: byte {len(before.encode())};"
        with pytest.raises(TextError, match=wanted):
            list(texts._decoded(_memory(content), "utf-8", Path("a.txt")))


def _memory(content: bytes):  # type: ignore[no-untyped-def]
    from io import BytesIO

    return BytesIO(content)


def test_folders_are_read_in_order_and_hidden_files_are_not(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "b" / "c.md").write_text("three")
    (tmp_path / "a.jsonl").write_text('{"said": "one", "n": 1}\n\n{"said": "two"}\n')
    with gzip.open(tmp_path / "d.jsonl.gz", "wt") as file:
        file.write('{"said": "four"}')
    (tmp_path / "e.txt").write_bytes(b"\xef\xbb\xbffive\r\n")
    (tmp_path / ".git" / "x.txt").write_text("hidden")
    (tmp_path / "y.py").write_text("other")
    assert list(Texts([tmp_path], "said")) == ["one", "two", "three", "four", "five\n"]
    assert list(Texts([tmp_path / "y.py"])) == ["other"]


def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TextError, match=r"no \.txt, \.md, \.jsonl .* in"):
        Texts([tmp_path])
    (tmp_path / "rows.jsonl").write_text('{"texts": "a"}\n')
    with pytest.raises(TextError, match=r"line 1: no text in a field 'text', .* mean texts\?"):
        list(Texts([tmp_path]))
    with pytest.raises(TextError, match=r"there is no .*row\.jsonl; did you mean .*rows\.jsonl\?"):
        Texts([tmp_path / "row.jsonl"])
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n[1]\n')
    with pytest.raises(TextError, match="line 2: no object"):
        list(Texts([tmp_path]))
    (tmp_path / "rows.jsonl").write_text('{"text": "a"\n')
    with pytest.raises(TextError, match="line 1: no JSON"):
        list(Texts([tmp_path]))
    with pytest.raises(TextError, match="unknown encoding: utf-9"):
        Texts([tmp_path], encoding="utf-9")
    whole = gzip.compress(b"a text" * 1000)
    for content in (b"no gzip", whole[:-9], whole[:20] + b"?" + whole[21:]):
        (tmp_path / "x.txt.gz").write_bytes(content)
        with pytest.raises(TextError, match="is not gzip, or truncated"):
            list(Texts([tmp_path / "x.txt.gz"]))


@pytest.mark.filterwarnings("ignore:invalid escape:DeprecationWarning")
@pytest.mark.parametrize(
    "content", [b"", b"text\n", b"\xff\xfe\x80 \\x \\ud800 +AA", bytes(range(256))]
)
def test_an_encoding_makes_text_or_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    for encoding in {*aliases.values(), "idna", "undefined", "unicode_escape", "nothing"}:
        try:
            assert all(isinstance(text, str) for text in Texts([tmp_path], encoding=encoding))
        except TextError as error:
            assert encoding in str(error)


@given(st.lists(st.sampled_from(["a", "\ud83d", "\ude00", "\ud800", "\u4e2d"]), min_size=1))
def test_half_a_pair_is_no_text(units: list[str]) -> None:
    with TemporaryDirectory() as folder:
        (Path(folder) / "a.jsonl").write_text(json.dumps({"text": "".join(units)}))
        (found,) = Texts([folder])
    whole = "".join(units).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert found.encode().decode() == found  # which tokenizers ask for
    assert found.replace("\ufffd", "") == whole.replace("\ufffd", "")


def test_a_store_holds_the_documents(tmp_path: Path) -> None:
    documents = [f"{'abcde'[n % 5] * (n % 7 + 1)}{'xyz'[n % 3]}" for n in range(200)] + [""]
    store = store_of(tmp_path, documents)
    found = [part.tolist() for part in np.split(store.tokens, store.starts[1:-1])]
    assert found == letters(documents[:-1])
    sides: dict[str, set[bool]] = {}
    for text, side in zip(documents[:-1], store.held_out.tolist(), strict=True):
        sides.setdefault(text, set()).add(side)
    assert all(len(both) == 1 for both in sides.values())  # equal documents are on one side
    assert 0.1 < store.held_out.mean() < 0.5
    learned = [t for d, out in zip(found, store.held_out, strict=True) if not out for t in d]
    assert store.counts.tolist() == [Counter(learned)[token] for token in range(26)]
    for size in (1, 7, 1 << 20):
        runs = [part for part, _ in store.runs(held_out=False, size=size)]
        assert np.concatenate(runs).tolist() == learned


def test_one_document_is_held_out_at_least(tmp_path: Path) -> None:
    store = store_of(tmp_path, ["abc", "abd"], share=1e-9)
    assert store.held_out.tolist() == [False, True]
    assert store.counts[:4].tolist() == [1, 1, 1, 0]


def test_a_store_is_whole_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(some: list[str]) -> list[list[int]]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TokenStore.write(tmp_path / "tokens", ["a", "b"], broken, 26)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "tokens.killed.unfinished").mkdir()
    with pytest.raises(StoreError, match="does not hold tokens"):
        TokenStore(tmp_path / "tokens")
    store = store_of(tmp_path, ["abc", "de", "f"])
    assert list(tmp_path.iterdir()) == [store.folder]  # what was left there is gone
    about = json.loads((store.folder / tokens.ABOUT).read_text())
    for file in sorted(store.folder.iterdir()):
        kept = file.read_bytes()
        for content in (kept[:-1], bytes([kept[0] ^ 1]) + kept[1:]):
            file.write_bytes(content)
            with pytest.raises(StoreError, match="remove it"):
                TokenStore(store.folder)
        file.write_bytes(kept)
    assert TokenStore(store.folder).digest == about["digest"]
    with pytest.raises(TokenOutOfRange, match="token 5, outside"):
        TokenStore.write(tmp_path / "small", ["abc", "f"], letters, 5)
    with pytest.raises(TextError, match="1 documents cannot be split"):
        TokenStore.write(tmp_path / "one", ["abc"], letters, 5)
    with pytest.raises(pf.SettingError, match="validation"):
        TokenStore.write(tmp_path / "none", ["abc"], letters, 5, validation=1.0)


def test_of_two_that_write_at_once_one_is_there(tmp_path: Path) -> None:
    some = ["abc", "de", "f"]

    def late() -> Iterator[str]:
        yield from some[:2]
        store_of(tmp_path, some)
        yield some[2]

    with pytest.raises(OSError):
        TokenStore.write(tmp_path / "tokens", late(), letters, 26)
    assert TokenStore(tmp_path / "tokens").tokens.tolist() == [0, 1, 2, 3, 4, 5]
    assert [path.name for path in tmp_path.iterdir()] == ["tokens"]


def counting_store(lengths: list[int], folder: Path) -> TokenStore:
    """Documents in which every token is another number, of which the last is held out."""
    ends = np.cumsum([0, *lengths])
    documents = [str(number) for number in range(len(lengths))]

    def numbers(some: list[str]) -> list[list[int]]:
        return [list(range(ends[int(n)], ends[int(n) + 1])) for n in some]

    size = int(ends[-1])
    return TokenStore.write(folder / "t", documents, numbers, size, validation=1e-9)


@given(
    lengths=st.lists(st.integers(1, 30), min_size=2, max_size=12),
    length=st.integers(1, 9),
    size=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_an_epoch_has_every_token_once(
    lengths: list[int], length: int, size: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = counting_store(lengths, tmp_path_factory.mktemp("store"))
    windows = Windows(store, length, batch_size=size, steps=1, seed=seed)
    told = windows.fingerprint()
    learned = list(range(sum(lengths[:-1])))
    for epoch in range(2):
        seen: list[int] = []
        for part in range(windows.parts):
            some = windows.of_epoch(epoch * windows.parts + part)
            assert len(some) > 0
            rows = some.tokens_of(torch.arange(len(some)))
            for row in rows.tolist():
                there = [token for token in row if token >= 0]
                assert there == list(range(there[0], there[0] + len(there)))  # one after another
                document = np.searchsorted(store.starts, there, side="right")
                assert len(set(document.tolist())) == 1
            seen += rows[rows >= 0].tolist()
        assert sorted(seen) == learned
    # what is asked for parts stays what it was: a fit that goes on knows it again
    assert all(map(torch.equal, windows.fingerprint(), told))
    held_out = Windows(store, length, held_out=True, seed=seed)
    rows = held_out.tokens_of(torch.arange(len(held_out)))
    assert sorted(rows[rows >= 0].tolist()) == list(range(sum(lengths[:-1]), sum(lengths)))


def test_parts_are_alike_and_spread_over_the_text(tmp_path: Path) -> None:
    store = counting_store([4000, 100], tmp_path)
    windows = Windows(store, 4, batch_size=25, steps=10)
    assert windows.parts == 4
    parts = [windows.of_epoch(number) for number in range(8)]
    assert all(abs(len(part) - 250) < 40 for part in parts)
    for part in parts:
        rows = part.tokens_of(torch.arange(len(part)))
        quarter = rows[rows >= 0].long() // 1000
        assert quarter.bincount(minlength=4).min() > 100
    first, again = windows.of_epoch(0), windows.of_epoch(0)
    assert torch.equal(*(part.tokens_of(torch.arange(len(part))) for part in (first, again)))


def test_a_token_stands_at_every_position_alike(tmp_path: Path) -> None:
    store, length, epochs = counting_store([9, 2, 5], tmp_path), 4, 4000
    windows = Windows(store, length, batch_size=100, seed=3)
    found = torch.zeros(11, length)
    for epoch in range(epochs):
        part = windows.of_epoch(epoch)
        rows = part.tokens_of(torch.arange(len(part)))
        row, place = (rows >= 0).nonzero().unbind(-1)
        found.index_put_((rows[row, place], place), torch.ones(()), accumulate=True)
    assert torch.equal(found.sum(dim=1), torch.full((11,), float(epochs)))
    spread = (epochs * 0.25 * 0.75) ** 0.5
    assert float((found - epochs / length).abs().max()) < 6 * spread


@given(
    lengths=st.lists(st.integers(1, 40), min_size=8, max_size=12),
    length=st.integers(1, 5),
    count=st.integers(16, 80),
    seed=st.integers(0, 99),
)
def test_rows_for_a_backbone_lie_within_documents(
    lengths: list[int], length: int, count: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = counting_store(lengths, tmp_path_factory.mktemp("store"))
    fit = sum(size // length for size in lengths[:-1])
    if fit < 16:
        with pytest.raises(TextError, match=f"{fit} times documents hold {length} tokens"):
            whole_rows(store, length, count, False, seed)
        return
    rows = whole_rows(store, length, count, False, seed)
    assert rows.shape == (min(count, fit), length)
    assert len(set(rows.flatten().tolist())) == rows.numel()  # none overlap
    assert bool((rows[:, 1:] == rows[:, :-1] + 1).all())
    document = np.searchsorted(store.starts, rows.numpy(), side="right")
    assert (document == document[:, :1]).all() and document.max() < len(lengths)


def test_what_a_window_does_not_hold_is_summed_out(tmp_path: Path) -> None:
    store = store_of(tmp_path, ["ab", "cab", "b", "acb"] * 5, size=3)
    windows = Windows(store, 3)
    model = pf.compile(text_chain(store, 2, 3), dtype=torch.float64)
    rows = torch.arange(len(windows))
    found = model.log_prob(windows.take(rows).evidence)
    every = torch.tensor(list(product(range(3), repeat=3)))
    all_of_them = model.log_prob(every)
    for row, value in zip(windows.tokens_of(rows), found, strict=True):
        fits = ((every == row) | (row < 0)).all(dim=1)
        torch.testing.assert_close(all_of_them[fits].logsumexp(0), value)


def test_baselines_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pcflow_diffusion.train.baselines.STRENGTHS", [2.0])
    store = store_of(tmp_path, ["aab", "ab", "ba"], size=2, share=1e-9)  # "ba" is held out
    assert store.counts.tolist() == [3, 2]
    single, pairs = token_nats(store, torch.tensor([[-1, 0, 1], [1, -1, -1]]))
    a, b = (3 + 1) / 7, (2 + 1) / 7
    assert single == pytest.approx(-(log(a) + 2 * log(b)) / 3)
    b_after_a = (2 + 2 * b) / (3 + 2)  # of a a, a b, a b
    assert pairs == pytest.approx(-(log(a) + log(b_after_a) + log(b)) / 3)
    assert token_nats(store, torch.tensor([[-1, 0]]))[1] == pytest.approx(-log(a))
