"""Laws of the backbones: conventions of known models, the denoiser, and its files."""

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pcflow import SettingError
from pcflow_diffusion.errors import BackboneError, CheckpointError, ShapeMismatch, TokenOutOfRange
from pcflow_diffusion.models import (
    CharacterTokenizer,
    Denoiser,
    DenoiserConfig,
    load_denoiser,
    save_denoiser,
)
from pcflow_diffusion.models.backbones import dream, llada, logits_of, mdlm

CONFIG = DenoiserConfig(vocabulary_size=11, width=16, depth=2, heads=2, kernel=3)
LETTERS = CharacterTokenizer("abcdefghij\ufffd")


def denoiser(seed: int = 0, config: DenoiserConfig = CONFIG) -> Denoiser:
    """A small denoiser whose weights half precision holds exactly."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Denoiser(config).half().float().eval()


def random_tokens(rows: int, length: int, high: int = 12) -> Tensor:
    """Random tokens, masks among them."""
    return torch.randint(high, (rows, length), generator=torch.Generator().manual_seed(3))


def numbered(tokens: Tensor) -> Tensor:
    """Fake logits that tell position and category apart: 10 * i + v, [B, L, 4]."""
    positions = torch.arange(tokens.shape[1])[:, None]
    return (10.0 * positions + torch.arange(4)).expand(len(tokens), -1, -1)


def wrapped(tokens: Tensor) -> SimpleNamespace:
    """The same as transformers return it: an object with `.logits`."""
    return SimpleNamespace(logits=numbered(tokens))


@pytest.mark.parametrize("model", [numbered, wrapped])
def test_llada_logits_stay_where_they_are(model) -> None:  # type: ignore[no-untyped-def]
    x = random_tokens(2, 5, 4)
    assert torch.equal(llada(model)(x), numbered(x))


@pytest.mark.parametrize("model", [numbered, wrapped])
def test_dream_logits_move_one_to_the_right(model) -> None:  # type: ignore[no-untyped-def]
    x = random_tokens(2, 5, 4)
    expected = [numbered(x)[:, max(i - 1, 0)] for i in range(5)]
    assert torch.equal(dream(model)(x), torch.stack(expected, dim=1))


def test_dream_reads_a_model_of_the_next_token() -> None:
    sequence = torch.tensor([[3, 1, 2, 0, 3, 1]])

    def next_token(_: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(sequence.roll(-1, dims=1), 4).float()

    assert torch.equal(dream(next_token)(sequence).argmax(dim=-1)[:, 1:], sequence[:, 1:])


@pytest.mark.parametrize("model", [numbered, wrapped])
def test_mdlm_never_proposes_the_mask_and_carries_visible_tokens_over(model) -> None:  # type: ignore[no-untyped-def]
    x = torch.tensor([[3, 0, 3, 2]])
    probabilities = mdlm(model, mask_token_id=3)(x).exp()[0]
    proposed = torch.arange(3).float().softmax(dim=0).tolist()
    assert probabilities[0].tolist() == pytest.approx([*proposed, 0])
    assert probabilities[1].tolist() == [1, 0, 0, 0]
    assert probabilities[2].tolist() == pytest.approx([*proposed, 0])
    assert probabilities[3].tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("adapt", [llada, dream, lambda model: mdlm(model, 3)])
def test_adapters_refuse_what_is_not_logits(adapt) -> None:  # type: ignore[no-untyped-def]
    x = random_tokens(2, 5, 4)
    with pytest.raises(BackboneError, match=r"\(2, 5, V\).*\(2, 4, 4\)"):
        adapt(lambda tokens: numbered(tokens)[:, 1:])(x)
    with pytest.raises(BackboneError, match="tuple holds 0"):
        adapt(lambda tokens: (numbered(tokens)[:, 1:],))(x)


@pytest.mark.parametrize("adapt", [llada, dream])
def test_adapters_keep_the_mask_of_the_model(adapt) -> None:  # type: ignore[no-untyped-def]
    assert adapt(denoiser()).mask_token_id == CONFIG.mask_token_id
    assert adapt(numbered).mask_token_id is None
    for config in (SimpleNamespace(mask_token_id=3), {"mask_token_id": 3}):
        hub = SimpleNamespace(config=config, mask_token_id="[MASK]")
        assert adapt(hub).mask_token_id == 3
    assert adapt(SimpleNamespace(config=None)).mask_token_id is None


def test_mdlm_keeps_the_mask_that_it_was_told() -> None:
    assert mdlm(numbered, 3).mask_token_id == 3
    assert mdlm(denoiser(), 5).mask_token_id == 5


def test_logits_are_a_tensor_or_in_an_object() -> None:
    x = random_tokens(2, 5, 4)
    assert torch.equal(logits_of(numbered, x), numbered(x))
    assert torch.equal(logits_of(wrapped, x), numbered(x))
    for shape in [(2, 5), (2, 6, 4), (1, 5, 4), (2, 5, 1, 4)]:
        with pytest.raises(BackboneError, match=r"\(2, 5, V\)"):
            logits_of(lambda _, shape=shape: torch.zeros(shape), x)


@pytest.mark.parametrize("length", [1, 2, 33, 300])
def test_denoiser_takes_any_length_and_has_no_logit_for_the_mask(length: int) -> None:
    assert denoiser()(random_tokens(2, length)).shape == (2, length, CONFIG.vocabulary_size)


def test_every_visible_token_can_change_the_logits_anywhere() -> None:
    model, x = denoiser(), random_tokens(1, 24, 11)
    with torch.no_grad():
        before = model(x)
        for position in range(x.shape[1]):
            changed = x.clone()
            changed[0, position] = (x[0, position] + 1) % 11
            moved = (model(changed) - before).abs().amax(dim=-1)[0]
            assert bool((moved > 0).all()), position


def test_denoiser_tells_distances_apart_beyond_the_convolution() -> None:
    model, x = denoiser(), torch.full((2, 41), CONFIG.mask_token_id)
    x[0, 10], x[1, 20] = 1, 1  # out of reach of the convolutions from position 40 and both ends
    with torch.no_grad():
        near, far = model(x)[:, 40]
    assert float((near - far).abs().max()) > 1e-5


def test_rows_of_a_batch_do_not_see_each_other() -> None:
    model, x = denoiser(), random_tokens(4, 20)
    with torch.no_grad():
        alone = torch.cat([model(row[None]) for row in x])
        torch.testing.assert_close(model(x), alone, atol=1e-5, rtol=1e-5)


def test_denoiser_refuses_tokens_without_an_embedding() -> None:
    for bad in (-1, 12):
        with pytest.raises(TokenOutOfRange, match=f"token {bad},"):
            denoiser()(torch.tensor([[0, 11, bad]]))
    with pytest.raises(ShapeMismatch):
        denoiser()(torch.tensor([0, 1]))


@pytest.mark.parametrize(
    "change", [{"width": 10}, {"kernel": 4}, {"dropout": 1.0}, {"depth": 0}, {"heads": 3}]
)
def test_configurations_that_do_not_fit_are_refused(change: dict[str, int]) -> None:
    with pytest.raises((SettingError, ShapeMismatch), match=next(iter(change))):
        DenoiserConfig(**{"vocabulary_size": 5, "width": 16, "heads": 2, **change})


def test_a_saved_denoiser_comes_back_equal(tmp_path: Path) -> None:
    model, path, x = denoiser(), tmp_path / "model.safetensors", random_tokens(2, 40)
    save_denoiser(model, path, LETTERS)
    loaded, tokenizer = load_denoiser(path)
    assert tokenizer == LETTERS
    assert loaded.config == CONFIG
    assert not loaded.training
    assert all(w.dtype == torch.float32 for w in loaded.parameters())
    assert all(w.dtype == torch.float16 for w in load_file(path).values())
    assert torch.equal(loaded(x), model(x))


def test_saving_what_was_loaded_loses_nothing_more(tmp_path: Path) -> None:
    model, first, second = denoiser(), tmp_path / "first", tmp_path / "second"
    torch.nn.init.normal_(model.head.weight)  # full precision
    save_denoiser(model, first, LETTERS)
    save_denoiser(load_denoiser(first)[0], second, LETTERS)
    stored = load_file(second)
    assert all(torch.equal(weight, stored[name]) for name, weight in load_file(first).items())


def test_an_interrupted_save_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    save_denoiser(denoiser(), path, LETTERS)
    before = path.read_bytes()

    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", broken)
    with pytest.raises(KeyboardInterrupt):
        save_denoiser(denoiser(seed=1), path, LETTERS)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_vocabulary_of_the_wrong_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="10 tokens, the model 11"):
        save_denoiser(denoiser(), tmp_path / "model", CharacterTokenizer(LETTERS.characters[1:]))


def test_truncated_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_denoiser(denoiser(), path, LETTERS)
    content = path.read_bytes()
    for kept in (0, 4, 200, len(content) - 1):
        path.write_bytes(content[:kept])
        with pytest.raises(CheckpointError, match="truncated or not"):
            load_denoiser(path)
    save_file({"w": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="format None"):
        load_denoiser(path)
    with pytest.raises(FileNotFoundError):
        load_denoiser(tmp_path / "absent")


@pytest.mark.parametrize(
    "metadata",
    [
        {"config": json.dumps({"vocabulary_size": 11, "width": 32})},
        {"config": json.dumps({"vocabulary_size": 11, "depth": 10**9})},
        {"config": json.dumps({"vocabulary_size": "11"})},
        {"config": json.dumps({"vocabulary_size": 11, "colour": 3})},
        {"config": "[1"},
        {"vocabulary": json.dumps("abc")},
        {"vocabulary": "3"},
    ],
)
def test_files_that_contradict_themselves_are_refused(
    tmp_path: Path, metadata: dict[str, str]
) -> None:
    path = tmp_path / "model.safetensors"
    config = json.dumps(asdict(CONFIG))
    honest = {"format": "pcflow_diffusion.denoiser.1", "config": config}
    honest["vocabulary"] = json.dumps(LETTERS.vocabulary)
    save_file(denoiser().state_dict(), path, metadata=honest)
    load_denoiser(path)
    save_file(denoiser().state_dict(), path, metadata={**honest, **metadata})
    with pytest.raises(CheckpointError):
        load_denoiser(path)
