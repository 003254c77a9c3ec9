"""The lm-eval model: what it says against enumeration, and a run of lm-eval on local tasks."""

import json
import sys
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_models import MASK, WORDS, save_bert

import pcflow as pf
from pcflow_diffusion import CircuitHead, fingerprint
from pcflow_diffusion.errors import GenerationError, ShapeMismatch, TokenizerMismatch
from pcflow_diffusion.evaluate.__main__ import main as command_line

lm_eval = pytest.importorskip("lm_eval", reason="needs pcflow[lm-eval]")

L = 4


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model and a head for it."""
    folder = tmp_path_factory.mktemp("lm_eval")
    save_bert(folder / "model")
    save_head(folder / "head", fingerprint(folder / "model"))
    return {"model": folder / "model", "head": folder / "head"}


def save_head(path: Path, tokenizer: str | None, vocabulary_size: int = len(WORDS)) -> None:
    generator = torch.Generator().manual_seed(3)
    chain = pf.hmm(L, 3, pf.Categorical(vocabulary_size), generator=generator)
    CircuitHead(pf.compile(chain), MASK, "product", tokenizer=tokenizer).save(path)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


def model_of(files: dict[str, Path], coupled: bool = True, **settings: Any) -> Any:
    from pcflow_diffusion.evaluate.harness import PcflowLM

    return PcflowLM(str(files["model"]), str(files["head"]) if coupled else None, **settings)


def asked(*texts: Any) -> Any:
    return SimpleNamespace(args=texts)


def by_enumeration(model: Any, context: list[int], answer: list[int]) -> tuple[float, float]:
    """Mean over all orders of log-probabilities token by token, and log of the mean probability."""
    place, found = len(context), []
    for order in permutations(range(len(answer))):
        row = torch.tensor([*context, *([MASK] * len(answer))])
        log_p = 0.0
        for token in order:
            log_m = model.backbone(row[None])[0, place + token]
            log_p += float(log_m.index_fill(0, torch.tensor([MASK]), -torch.inf).log_softmax(0)[
                answer[token]
            ])  # fmt: skip
            row[place + token] = answer[token]
        found.append(log_p)
    each = torch.tensor(found, dtype=torch.float64)
    return float(each.mean()), float(each.logsumexp(0) - torch.tensor(len(each)).log())


CHOICES = [" cat sat", " dog ran .", " the", " ran the dog"]


def test_choices_are_told_apart_as_by_enumeration(files: dict[str, Path]) -> None:
    """Without a head the bound is that of token by token, and below the log-likelihood."""
    model = model_of(files, coupled=False, mc_num=2_000, batch_size=500)
    told = model.loglikelihood([asked("the", choice) for choice in CHOICES], disable_tqdm=True)
    context = model.tok_encode("the")
    wanted = [by_enumeration(model, context, model.tok_encode(choice)) for choice in CHOICES]
    for (bound, greedy), (mean, exact) in zip(told, wanted, strict=True):
        assert bound == pytest.approx(mean, abs=0.1) and not greedy
        assert mean <= exact + 1e-6
    best = max(range(len(CHOICES)), key=lambda n: wanted[n][0])
    assert max(range(len(CHOICES)), key=lambda n: told[n][0]) == best


def test_in_one_step_a_head_says_the_joint_itself(files: dict[str, Path]) -> None:
    model = model_of(files, likelihood_steps=1, mc_num=3)
    context, answer = model.tok_encode("the cat"), model.tok_encode("sat .")
    ((told, _),) = model.loglikelihood([asked("the cat", " sat .")], disable_tqdm=True)
    x = torch.tensor([[*context, MASK, MASK]])
    x0 = torch.tensor([[*context, *answer]])
    head = CircuitHead.load(files["head"])
    wanted = head.log_prob(model.backbone(x), x, x0).detach()
    assert told == pytest.approx(float(wanted), abs=1e-5)


def test_answers_depend_on_the_request_alone(files: dict[str, Path]) -> None:
    """Not on what was asked before, nor on how many samples go together."""
    requests = [asked("the", choice) for choice in CHOICES]
    told = model_of(files, mc_num=16).loglikelihood(requests, disable_tqdm=True)
    again = model_of(files, mc_num=16, batch_size=3).loglikelihood(requests[::-1])
    for (one, _), (other, _) in zip(told, again[::-1], strict=True):
        assert one == pytest.approx(other, abs=1e-4)


@pytest.mark.parametrize(("given", "wanted"), [("4", 4), (4, 4), ("auto", 32), ("auto:4", 32)])
def test_as_many_samples_go_together_as_are_asked_for(
    files: dict[str, Path], given: Any, wanted: int
) -> None:
    """lm-eval hands on what its command line was given, as it was written."""
    assert model_of(files, batch_size=given).batch_size == wanted


def test_what_is_longer_than_the_model_sees_is_refused(files: dict[str, Path]) -> None:
    model = model_of(files, max_length=6)
    with pytest.raises(GenerationError, match="7 tokens, and the model sees 6"):
        model.generate_until([asked("the", {"max_gen_toks": 7})], disable_tqdm=True)
    (text,) = model.generate_until([asked("the cat", {"max_gen_toks": 6})], disable_tqdm=True)
    assert len(model.tok_encode(text)) <= 6


def test_a_long_text_is_read_in_parts_that_the_model_sees(files: dict[str, Path]) -> None:
    model = model_of(files, coupled=False, max_length=6, mc_num=8)
    text = " ".join(["the cat sat"] * 5)
    (told,) = model.loglikelihood_rolling([asked(text)], disable_tqdm=True)
    assert -60 < told < 0
    seen: list[int] = []
    whole = model.backbone
    model.backbone = lambda x: (seen.append(x.shape[1]), whole(x))[1]
    model.loglikelihood([asked(text, " dog ran")], disable_tqdm=True)
    model.loglikelihood([asked("the", f" {text}")], disable_tqdm=True)
    assert max(seen) == 6
    assert model.loglikelihood_rolling([asked("")]) == [0.0]


@pytest.mark.parametrize("coupled", [False, True])
def test_what_would_be_generated_is_greedy(files: dict[str, Path], coupled: bool) -> None:
    model = model_of(files, coupled, check_greedy=True, mc_num=2)
    context = model.tok_encode("the cat")
    tokens = model._write(context, 2, 0.0, ends=False)
    pairs = [(("", ""), context, tokens), (("", ""), context, [tokens[0], (tokens[1] + 1) % 9])]
    told = model._loglikelihood_tokens(pairs, disable_tqdm=True)
    assert [greedy for _, greedy in told] == [True, False]


def test_texts_end_where_they_are_asked_to(files: dict[str, Path]) -> None:
    model = model_of(files, block_length=3)
    how = {"until": [], "max_gen_toks": 10}
    (whole,) = model.generate_until([asked("the cat", how)], disable_tqdm=True)
    assert len(model.tok_encode(whole)) > 2
    word = whole.split()[1]
    (cut,) = model.generate_until([asked("the cat", how | {"until": [word]})], disable_tqdm=True)
    assert cut == whole.split(word)[0]
    (drawn,) = model.generate_until([asked("the", how | {"do_sample": True, "temperature": 1.0})])
    assert MASK not in model.tok_encode(drawn)


def test_heads_for_other_tokens_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    for tokenizer, size, error in (
        (None, len(WORDS) + 1, ShapeMismatch),
        ("sha256:0", len(WORDS), TokenizerMismatch),
    ):
        save_head(tmp_path / "other", tokenizer, size)
        with pytest.raises(error):
            model_of(files | {"head": tmp_path / "other"})


TASKS = {
    "choices.yaml": """
task: tiny_choices
output_type: multiple_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc}}]
""",
    "texts.yaml": """
task: tiny_texts
output_type: generate_until
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[answer]}}}}"
generation_kwargs: {{until: ["."], max_gen_toks: 5}}
metric_list: [{{metric: exact_match}}]
""",
    "rolling.yaml": """
task: tiny_rolling
output_type: loglikelihood_rolling
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
doc_to_text: ""
doc_to_target: "{{{{question}}}}"
metric_list: [{{metric: word_perplexity}}]
""",
}


@pytest.mark.filterwarnings("default")
def test_lm_eval_runs_it_by_name(
    files: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    documents = [
        {"question": "the cat", "choices": ["sat", "the"], "answer": 0},
        {"question": "the dog", "choices": ["cat", "ran"], "answer": 1},
    ]
    (tmp_path / "data.json").write_text("\n".join(map(json.dumps, documents)), encoding="utf-8")
    for name, text in TASKS.items():
        told = text.format(data=tmp_path / "data.json")
        (tmp_path / name).write_text(told, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["before"])
    model = f"pretrained={files['model']},head={files['head']},mc_num=8,steps=3"
    names = ",".join(f"tiny_{name}" for name in ("choices", "texts", "rolling"))
    options = ["--model_args", model, "--include_path", str(tmp_path), "--tasks", names]
    options += ["--output_path", str(tmp_path / "out"), "--batch_size", "4"]
    command_line(["lm-eval", "--model", "pcflow", *options])
    (path,) = (tmp_path / "out").rglob("results*.json")
    results = json.loads(path.read_text(encoding="utf-8"))["results"]
    assert results["tiny_choices"]["acc,none"] in (0.0, 0.5, 1.0)
    assert results["tiny_rolling"]["word_perplexity,none"] > 1
    assert 0 <= results["tiny_texts"]["exact_match,none"] <= 1
    assert "tiny_choices" in capsys.readouterr().out
