"""Heads over several tokens, what they learn from, and the loop in which they draft."""

import copy
from itertools import product
from typing import Any

import pytest
import torch
from speculative_law import DRAFTS, N, V, fits, law, model_law
from torch import Tensor, nn

import pcflow as pf
from pcflow import SettingError
from pcflow_diffusion.decode import lengths_of
from pcflow_diffusion.errors import (
    BackboneError,
    GenerationError,
    ShapeMismatch,
    TokenOutOfRange,
    TypeMismatch,
)
from pcflow_diffusion.models import Judge, TransformerConfig
from pcflow_diffusion.multi_token import (
    CausalVerifier,
    JudgeVerifier,
    MultiTokenHead,
    Reading,
    Verifier,
    fit_multi_token,
    multi_token_loss,
    speculate,
)
from pcflow_diffusion.multi_token.acceptance import tempered
from pcflow_diffusion.multi_token.verifier import read

KINDS = ("ff", "cp", "hmm", "tree")
PROMPT = torch.tensor([[1, 2]])


def a_judge(seed: int = 0) -> Judge:
    """A random judge that is sure of some things."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        judge = Judge(TransformerConfig(V, width=8, depth=1, heads=2)).eval().double()
        nn.init.normal_(judge.head.weight, std=1.0)
    return judge.requires_grad_(False)


def a_head(kind: Any, shared: bool = False, unembedding: nn.Linear | None = None) -> MultiTokenHead:
    """A head in float64 that is nothing like the judge, with three units."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = MultiTokenHead(
            unembedding or a_judge().head, N + 1, kind, states=3, rank=4, shared=shared
        )
        for parameter in made.parameters():
            nn.init.normal_(parameter, std=0.7)
    return made.double()


def tables(verifier: Verifier, prompt: Tensor, depth: int) -> list[Tensor]:
    """The model's conditionals after a prompt [1, P], of 0, 1, ... tokens more: [V, ..., V]."""
    found = []
    for length in range(depth):
        texts = torch.tensor(list(product(range(V), repeat=length))).view(V**length, length).long()
        rows = torch.cat([prompt.expand(len(texts), -1), texts], dim=1)
        found.append(verifier(rows).log_p[:, -1].view([V] * (length + 1)))
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shared", [False, True])
def test_every_hidden_state_has_a_circuit_of_its_own(kind: str, shared: bool) -> None:
    head, hidden = a_head(kind, shared), torch.randn(3, 8, generator=seeded(0)).double()
    every = torch.cartesian_prod(*[torch.arange(V)] * (N + 1))  # [625, 4]
    emitted = head.circuit_parameters(hidden)
    assert (len(emitted) < len(head.model.parameter_shapes)) == shared
    for row in range(3):
        one = copy.deepcopy(head.model)
        one.load_state_dict(one.state_dict() | {name: p[row] for name, p in emitted.items()})
        joint = one.log_prob(every)
        states = hidden[row].expand(len(every), -1)
        rows = head.next_log_probs(states, every)
        for j in range(N + 1):
            mass = joint.reshape(*[V] * (j + 1), -1).logsumexp(dim=-1)  # of x_0 ... x_j
            wanted = (mass - mass.logsumexp(dim=-1, keepdim=True))[every[:, :j].unbind(1)]
            torch.testing.assert_close(rows[:, j], wanted.expand(len(every), V), rtol=0, atol=1e-9)
        own = rows.gather(-1, every.unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(head(states, every), own, rtol=0, atol=1e-9)


def test_at_first_every_unit_says_what_the_model_says_next() -> None:
    judge = a_judge()
    hidden, log_p = (found[:, -1] for found in JudgeVerifier(judge)(PROMPT))
    for kind in KINDS:
        head = MultiTokenHead(judge.head, 3, kind, states=4, rank=4).requires_grad_(False)
        rows = head.next_log_probs(hidden.float(), torch.zeros(1, 3, dtype=torch.long))
        assert float((rows - log_p.float()).abs().max()) < 1.0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_law_of_a_round_is_the_judges_by_enumeration(kind: str, temperature: float) -> None:
    """Every first token, every draft, every place where it may end, in float64."""
    verifier, head = JudgeVerifier(a_judge()), a_head(kind)
    hidden = verifier(PROMPT).hidden[:, -1].expand(len(DRAFTS), -1)
    for first in range(V):
        known = torch.full((len(DRAFTS), 1), first)
        rows = head.next_log_probs(hidden, torch.cat([known, DRAFTS], dim=1))[:, 1:]
        rows = tempered(rows, temperature)
        log_q = rows.gather(-1, DRAFTS.unsqueeze(-1)).squeeze(-1)
        p = tables(verifier, torch.cat([PROMPT, known[:1]], dim=1), N + 1)
        p = [tempered(table, temperature) for table in p]
        torch.testing.assert_close(law(log_q, rows, p), model_law(p), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_drafts_come_from_what_they_say_they_come_from(kind: str, temperature: float) -> None:
    head, rows = a_head(kind), 5_000
    hidden = torch.randn(1, 8, generator=seeded(0)).double()
    known = torch.tensor([[3]])
    draft = head.draft(hidden.expand(rows, -1), known.expand(rows, -1), seeded(1), temperature)
    every = torch.cat([known.expand(len(DRAFTS), -1), DRAFTS], dim=1)
    conditionals = head.next_log_probs(hidden.expand(len(DRAFTS), -1), every)[:, 1:]
    conditionals = tempered(conditionals, temperature)
    log_q = conditionals.gather(-1, DRAFTS.unsqueeze(-1)).squeeze(-1)
    assert fits(draft.tokens, log_q.detach().sum(dim=-1).exp().view([V] * N))
    place = (draft.tokens * torch.tensor([V * V, V, 1])).sum(dim=-1)
    torch.testing.assert_close(draft.log_rows, conditionals[place], rtol=0, atol=1e-9)
    torch.testing.assert_close(draft.log_q, log_q[place], rtol=0, atol=1e-9)
    at = torch.arange(rows) % N
    torch.testing.assert_close(draft.next_log_q(at), draft.log_rows[torch.arange(rows), at])


def test_as_many_tokens_are_drafted_as_are_not_known() -> None:
    head, hidden = a_head("tree"), torch.randn(2, 8, generator=seeded(0)).double()
    nothing = torch.zeros(2, 0, dtype=torch.long)
    draft = head.draft(hidden, nothing, seeded(1))
    assert draft.tokens.shape == (2, N + 1)
    torch.testing.assert_close(draft.log_q, head(hidden, draft.tokens), rtol=0, atol=1e-9)
    for known in (torch.zeros(2, N + 1).long(), torch.zeros(3, 1).long()):
        with pytest.raises(ShapeMismatch, match=r"known must be \[2, fewer than 4\]"):
            head.draft(hidden, known)


@pytest.mark.parametrize("kind", ["ff", "hmm"])
def test_the_text_has_the_judges_law(kind: str) -> None:
    """Rows go on by different steps, and end in different rounds."""
    verifier, rows = JudgeVerifier(a_judge()), 5_000
    head = a_head(kind)
    found = speculate(verifier, head, PROMPT.expand(rows, -1), gen_length=4, generator=seeded(2))
    assert found.calls.unique().tolist() == [2, 3, 4]
    assert bool((found.written == 4).all())
    assert bool((found.tokens[:, :2] == PROMPT).all())
    assert fits(found.tokens[:, 2:], model_law(tables(verifier, PROMPT, 4)))


def cut(law: Tensor, end: int) -> Tensor:
    """The law of texts in which only `end` follows after the first one."""
    texts = torch.cartesian_prod(*[torch.arange(V)] * law.dim())
    after = (texts == end).cumsum(dim=1) > 0
    found = torch.zeros_like(law)
    return found.index_put_(texts.masked_fill(after, end).unbind(1), law.flatten(), accumulate=True)


class Watched:
    """A judge, and what it was asked: rows and positions."""

    def __init__(self) -> None:
        self.judge, self.reads = JudgeVerifier(a_judge()), list[tuple[int, int]]()

    def __call__(self, tokens: Tensor, kept: int = 0) -> Reading:
        self.reads.append(tuple(tokens.shape))
        return self.judge(tokens, kept)


class Selecting(Watched):
    """One that can go on with some rows."""

    select = JudgeVerifier.select


@pytest.mark.parametrize("kind", ["cp", "hmm"])
@pytest.mark.parametrize("made", [Watched, Selecting])
def test_the_text_has_the_tempered_law_up_to_its_end(kind: str, made: type[Watched]) -> None:
    """Rows that have ended are read no more by whoever can go on with the others."""
    verifier, rows, end, heat = made(), 3_000, 3, 0.7
    how: dict[str, Any] = {"temperature": heat, "end_token_id": end}
    prompts = PROMPT.expand(rows, -1)
    found = speculate(verifier, a_head(kind), prompts, 4, seeded(2), **how)
    law = model_law([tempered(p, heat) for p in tables(verifier.judge, PROMPT, 4)])
    assert fits(found.tokens[:, 2:], cut(law, end))
    lengths = lengths_of(found.tokens, 2, end)
    assert torch.equal(found.written, lengths + (lengths < 4))  # with the one that ends it
    assert max(length for _, length in verifier.reads) == 5  # what comes sixth nobody reads
    counts = [count for count, _ in verifier.reads]
    if made is Watched:
        assert set(counts) == {rows}
    else:
        assert sum(counts) == int(found.calls.sum()) < rows * len(counts)


def test_without_heat_the_text_is_the_greedy_one() -> None:
    verifier, text = JudgeVerifier(a_judge()), torch.tensor([[1, 2], [0, 4], [3, 3]])
    for kind in KINDS:
        found = speculate(verifier, a_head(kind), text, 12, temperature=0).tokens
        again = text
        for _ in range(12):
            again = torch.cat([again, verifier(again).log_p[:, -1:].argmax(dim=-1)], dim=1)
        assert torch.equal(found, again)


def test_nothing_is_read_behind_what_is_asked_for() -> None:
    verifier, head = Selecting(), a_head("hmm")
    found = speculate(verifier, head, torch.tensor([[1, 2], [0, 4], [3, 3]]), 40, seeded(0))
    assert max(length for _, length in verifier.reads) == 41
    assert found.tokens.shape == (3, 42)
    assert found.written.tolist() == [40] * 3
    assert found.per_call == float(found.written.sum() / found.calls.sum())


def test_what_cannot_be_continued_is_refused() -> None:
    verifier, head = JudgeVerifier(a_judge()), a_head("cp")
    with pytest.raises(GenerationError, match="at least one token"):
        speculate(verifier, head, PROMPT[:, :0], 3)
    with pytest.raises(GenerationError, match="none to draft"):
        speculate(verifier, MultiTokenHead(nn.Linear(8, V), 1, "cp"), PROMPT, 3)
    with pytest.raises(SettingError, match="gen_length"):
        speculate(verifier, head, PROMPT, 0)
    for wrong in (-1.0, torch.inf, torch.nan, "hot"):
        with pytest.raises(SettingError, match="temperature"):
            speculate(verifier, head, PROMPT, 3, temperature=wrong)  # type: ignore[arg-type]
        with pytest.raises(SettingError, match="temperature"):
            head.draft(torch.zeros(1, 8), PROMPT, temperature=wrong)  # type: ignore[arg-type]
    with pytest.raises(TokenOutOfRange, match="end_token_id"):
        speculate(verifier, head, PROMPT, 3, end_token_id=V)
    with pytest.raises(TypeMismatch, match="end_token_id"):
        speculate(verifier, head, PROMPT, 3, end_token_id=0.5)  # type: ignore[arg-type]


def test_no_rows_are_continued_by_none() -> None:
    found = speculate(JudgeVerifier(a_judge()), a_head("hmm"), PROMPT[:0], 3)
    assert found.tokens.shape == (0, 5) and found.calls.shape == (0,)


@pytest.mark.parametrize("size", [V - 2, V + 4])
@pytest.mark.parametrize("gen_length", [1, 9])
def test_model_and_head_are_about_the_same_tokens(size: int, gen_length: int) -> None:
    other = Judge(TransformerConfig(size, width=8, depth=1, heads=2)).eval().double()
    with pytest.raises(ShapeMismatch, match=f"the verifier is about {size} tokens, the head about"):
        speculate(JudgeVerifier(other), a_head("cp"), torch.zeros(2, 3).long(), gen_length)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_log_probabilities_of_half_precision_are_a_distribution_again(dtype: torch.dtype) -> None:
    """Rounded ones do not add up to one, and draws from them are coarse."""
    judge = JudgeVerifier(a_judge())

    def verifier(tokens: Tensor, kept: int = 0) -> Reading:
        return Reading(*(part.to(dtype) for part in judge(tokens, kept)))

    _, log_p = read(verifier, PROMPT)
    assert log_p.dtype == torch.float32
    torch.testing.assert_close(log_p, judge(PROMPT).log_p.to(dtype).float().log_softmax(dim=-1))
    assert speculate(verifier, a_head("cp"), PROMPT, 5, seeded(0)).tokens.shape == (1, 7)


@pytest.mark.parametrize("nothing", [torch.nan, -torch.inf])
def test_a_verifier_that_says_nothing_is_refused(nothing: float) -> None:
    judge = JudgeVerifier(a_judge())

    def verifier(tokens: Tensor, kept: int = 0) -> Reading:
        return judge(tokens, kept)._replace(
            log_p=torch.full((1, tokens.shape[1] - kept, V), nothing)
        )

    with pytest.raises(BackboneError, match="must be distributions"):
        speculate(verifier, a_head("cp"), PROMPT, 3)


def test_a_verifier_says_what_its_judge_says() -> None:
    judge = a_judge()
    tokens = torch.randint(V, (3, 7), generator=seeded(0))
    hidden, log_p = JudgeVerifier(judge)(tokens)
    own = log_p[:, :-1].gather(-1, tokens[:, 1:].unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(own, judge(tokens)[:, 1:], rtol=0, atol=1e-9)
    torch.testing.assert_close(judge.head(hidden).log_softmax(dim=-1), log_p, rtol=0, atol=1e-9)
    rest = JudgeVerifier(judge)(tokens, 4)
    torch.testing.assert_close(rest.log_p, log_p[:, 4:], rtol=0, atol=1e-9)


def causal(kind: str) -> Any:
    """A tiny random model of `transformers` over V tokens."""
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    if kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=V, n_positions=64, n_embd=8, n_layer=2, n_head=2, initializer_range=0.5
        )
    else:
        sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
        window = {"sliding_window": 3} if kind == "mistral" else {}
        made = transformers.MistralConfig if window else transformers.LlamaConfig
        config = made(vocab_size=V, initializer_range=0.5, **sizes, **heads, **window)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config).eval().double()


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral"])
def test_a_model_of_transformers_keeps_its_law_and_its_cache(kind: str) -> None:
    model = causal(kind)
    verifier, rows = CausalVerifier(model), 3_000
    head = a_head("hmm", unembedding=model.get_output_embeddings())
    found = speculate(verifier, head, PROMPT.expand(rows, -1), gen_length=3, generator=seeded(3))
    assert len(found.calls.unique()) > 1
    with torch.no_grad():
        assert fits(found.tokens[:, 2:], model_law(tables(CausalVerifier(model), PROMPT, 3)))
        verifier(found.tokens)
        other = torch.cat([found.tokens[:, :3], 4 - found.tokens[:, 3:]], dim=1)
        again, anew = verifier(other, 3), CausalVerifier(model)(other)
        unembedded = model.get_output_embeddings()(anew.hidden)
        torch.testing.assert_close(model(other).logits, unembedded, rtol=0, atol=1e-9)
        torch.testing.assert_close(anew.log_p, unembedded.log_softmax(dim=-1), rtol=0, atol=1e-9)
        some = torch.tensor([7, 2])
        verifier.select(some)
        later = verifier(found.tokens[some], 3)
        wanted = CausalVerifier(model)(found.tokens[some])
    torch.testing.assert_close(again.hidden, anew.hidden[:, 3:], rtol=0, atol=1e-9)
    torch.testing.assert_close(again.log_p, anew.log_p[:, 3:], rtol=0, atol=1e-9)
    torch.testing.assert_close(later.log_p, wanted.log_p[:, 3:], rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral"])
@pytest.mark.parametrize("seed", range(3))
def test_a_cache_is_cut_as_far_as_one_likes(kind: str, seed: int) -> None:
    """From the first call on; and beyond the window of those that see no more than that."""
    model, generator = causal(kind), seeded(seed)
    verifier = CausalVerifier(model)
    text = torch.randint(V, (2, 6), generator=generator)
    with torch.no_grad():
        verifier(text)
        for _ in range(5):
            kept = text.shape[1] - int(torch.randint(0, 4, (), generator=generator))
            more = torch.randint(V, (2, 1 + int(torch.randint(5, (), generator=generator))))
            text = torch.cat([text[:, :kept], more], dim=1)
            wanted = model(text).logits[:, kept:].log_softmax(dim=-1)
            torch.testing.assert_close(verifier(text, kept).log_p, wanted, rtol=0, atol=1e-9)
    assert (verifier.past is None) == (kind == "mistral")


def test_a_model_that_recomputes_activations_learns() -> None:
    """Which keeps no cache meanwhile."""
    model = causal("llama").float().train()
    model.activation_checkpointing_enable()
    before = copy.deepcopy(model.state_dict())
    head = MultiTokenHead(model.get_output_embeddings(), 3, "cp", states=2, rank=2)
    rows, how = torch.randint(V, (4, 9), generator=seeded(0)), {"steps": 2, "progress": False}
    fit_multi_token(head, CausalVerifier(model), rows, backbone=model.parameters(), **how)
    still = [name for name, p in model.state_dict().items() if torch.equal(before[name], p)]
    assert still == ["lm_head.weight"]  # the head has an unembedding of its own


def test_a_model_that_keeps_nothing_is_refused() -> None:
    with pytest.raises(BackboneError, match="takes no cache"):
        CausalVerifier(lambda tokens: tokens)(PROMPT)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (None, "returns a Reading, got NoneType"),
        ((torch.zeros(1, 2, 8), [0.0]), "log_p must be a tensor of floating point"),
        ((torch.zeros(1, 2, 8), torch.zeros(1, 1, V)), r"log_p must be \[1, 2, V\]"),
    ],
)
def test_a_verifier_returns_what_it_made_of_every_token(returned: Any, said: str) -> None:
    with pytest.raises(BackboneError, match=said):
        speculate(lambda tokens, kept=0: returned, a_head("cp"), PROMPT, 3)


def test_the_loss_is_cross_entropy_and_divergence_discounted() -> None:
    head, hidden = a_head("hmm"), torch.randn(6, 8, generator=seeded(0)).double()
    tokens = torch.randint(V, (6, N + 1), generator=seeded(1))
    log_p = torch.randn(6, N + 1, V, generator=seeded(2)).double().log_softmax(dim=-1)
    log_p[0, 0] = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0]).log()  # what cannot be counts nothing
    log_q = head.next_log_probs(hidden, tokens).detach()
    nats = away = scale = 0.0
    for j in range(N + 1):
        for row in range(6):
            nats -= 0.8**j * float(log_q[row, j, tokens[row, j]])
            p = log_p[row, j].exp()
            away += 0.8**j * float(sum(p[v] * (p[v].log() - log_q[row, j, v]) for v in p.nonzero()))
        scale += 6 * 0.8**j
    for share in (0.0, 0.3, 1.0):
        found = multi_token_loss(head, hidden, tokens, log_p, discount=0.8, distillation=share)
        wanted = (1 - share) * nats / scale + share * away / scale
        assert float(found.detach()) == pytest.approx(wanted, abs=1e-9)
    itself = multi_token_loss(head, hidden, tokens, log_q, distillation=1.0)
    assert float(itself.detach()) == pytest.approx(0.0, abs=1e-9)
    with pytest.raises(ShapeMismatch, match="teacher_log_p"):
        multi_token_loss(head, hidden, tokens, log_p[:, 1:])
    with pytest.raises(ShapeMismatch, match="at least one row"):
        multi_token_loss(head, hidden[:0], tokens[:0], log_p[:0])
    with pytest.raises(SettingError, match="discount"):
        multi_token_loss(head, hidden, tokens, log_p, discount=0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_moves_the_head_and_the_model(kind: str) -> None:
    head = a_head(kind)
    hidden = torch.randn(4, 8, generator=seeded(0)).double().requires_grad_()
    tokens = torch.randint(V, (4, N + 1), generator=seeded(1))
    log_p = torch.zeros(4, N + 1, V).double().log_softmax(dim=-1)

    def loss(states: Tensor) -> Tensor:
        return multi_token_loss(head, states, tokens, log_p)

    loss(hidden).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in head.parameters())
    assert hidden.grad is not None
    step = torch.randn(4, 8, generator=seeded(2)).double()
    with torch.no_grad():
        slope = (loss(hidden + 1e-5 * step) - loss(hidden - 1e-5 * step)) / 2e-5
    assert float((hidden.grad * step).sum()) == pytest.approx(float(slope), rel=1e-5)


def test_a_head_learns_a_text_that_repeats_itself() -> None:
    """Which the judge knows by heart: most of its drafts then stand, and hardly any did before."""
    judge = a_judge().float()
    text = torch.arange(2_000) % V
    rows = text.unfold(0, 24, 3)
    judge.requires_grad_(True)
    optimizer = torch.optim.Adam(judge.parameters(), lr=0.03)
    for _ in range(50):
        optimizer.zero_grad()
        (-judge(rows[torch.randint(len(rows), (8,), generator=seeded(0))]).mean()).backward()
        optimizer.step()
    verifier = JudgeVerifier(judge.requires_grad_(False))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = MultiTokenHead(judge.head, N + 1, "hmm", states=5, rank=8)
    before = speculate(verifier, head, rows[:8], 40, seeded(2))
    losses = fit_multi_token(
        head,
        verifier,
        rows,
        steps=40,
        batch_size=4,
        learning_rate=0.03,
        progress=False,
        generator=seeded(1),
    )
    assert losses[-1] < 0.2 * losses[0]
    found = speculate(verifier, head, rows[:8], 40, seeded(2))
    assert before.per_call < 1.5 and found.per_call > 2.5  # of four


def test_the_model_learns_only_if_it_is_told_to() -> None:
    judge, head = a_judge().float(), MultiTokenHead(nn.Linear(8, V), 3, "cp", states=2, rank=4)
    rows, before = torch.randint(V, (9, 12), generator=seeded(0)), copy.deepcopy(judge.state_dict())
    settings: dict[str, Any] = {"steps": 2, "progress": False, "generator": seeded(1)}
    with pytest.raises(TypeMismatch, match="all are frozen"):
        fit_multi_token(head, JudgeVerifier(judge), rows, backbone=judge.parameters(), **settings)
    judge.requires_grad_(True)
    fit_multi_token(head, JudgeVerifier(judge), rows, **settings)
    assert all(torch.equal(before[name], p) for name, p in judge.state_dict().items())
    fit_multi_token(head, JudgeVerifier(judge), rows, backbone=judge.parameters(), **settings)
    assert not torch.equal(before["embedding.weight"], judge.embedding.weight)


def test_heads_and_texts_that_do_not_fit_are_refused() -> None:
    head = a_head("cp")
    with pytest.raises(ShapeMismatch, match=r"hidden must be \[B, 8\]"):
        head(torch.zeros(2, 7), torch.zeros(2, N + 1, dtype=torch.long))
    hidden, tokens = torch.zeros(2, 8).double(), torch.zeros(2, N + 1, dtype=torch.long)
    for ask in (head, head.next_log_probs):
        with pytest.raises(ShapeMismatch, match=r"hidden must be \[1, 8\], got \(2, 8\)"):
            ask(hidden, tokens[:1])
    for broken in (torch.nan, torch.inf):
        hidden[1, 3] = broken
        for refuses in (head, head.next_log_probs, lambda h, t: head.draft(h, t[:, :1])):
            with pytest.raises(SettingError, match=r"hidden .* in row 1"):
                refuses(hidden, tokens)
    with pytest.raises(SettingError, match="kind"):
        MultiTokenHead(nn.Linear(8, V), 3, "chain")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="length"):
        MultiTokenHead(nn.Linear(8, V), 0)
    with pytest.raises(TypeMismatch, match="unembedding"):
        MultiTokenHead(nn.Embedding(8, V), 3)  # type: ignore[arg-type]
    with pytest.raises(ShapeMismatch, match="more than 4"):
        fit_multi_token(head, JudgeVerifier(a_judge()), torch.zeros(3, 4).long(), steps=1)


def test_the_circuits_are_what_they_are_called() -> None:
    counts = {kind: a_head(kind).model.parameter_shapes for kind in KINDS}
    assert sorted(map(len, counts.values())) == [2, 2, 4, 2 + N]
    chain = pf.compile(a_head("hmm").model.circuit)
    assert chain.filter(1).next_log_probs().shape == (1, V)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
