"""A head from a text: the steps of `python -m pcflow_diffusion.train`, one after the other."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path

import torch
import torch.distributed as dist

import pcflow as pf
from pcflow_diffusion.errors import CheckpointError, TextError
from pcflow_diffusion.head import CircuitHead, TopK
from pcflow_diffusion.models import Pretrained, load_pretrained
from pcflow_diffusion.models.progress import shown, tell
from pcflow_diffusion.train.against import choose, coupled_nats, rooms, store_text, unlisted
from pcflow_diffusion.train.baselines import circuit_nats, token_nats
from pcflow_diffusion.train.chain import LEARNER, text_chain
from pcflow_diffusion.train.conditional import fit_conditional
from pcflow_diffusion.train.encoders import Encoder, encoder_of, is_learned, open_encoder
from pcflow_diffusion.train.lock import locked
from pcflow_diffusion.train.plan import Plan, Settings, keep_plan, kept_plan, make_plan
from pcflow_diffusion.train.report import USE, Files, Nats, News, clock, counted, draw, table
from pcflow_diffusion.train.stored import StoredLogits
from pcflow_diffusion.train.texts import Texts
from pcflow_diffusion.train.tokens import TokenStore
from pcflow_diffusion.train.windows import Windows

JUDGED = 2048  # held-out windows
PATIENCE = 3  # is this part of the whole: steps fall all along, and what is noisy at first settles
LISTED = 256  # logits that are stored of a position


class TextRun:
    """A head that is made of a text, as the command line asks.

    Args:
        given: the command line.
    """

    def __init__(self, given: argparse.Namespace) -> None:
        """Join the other processes, if there are any."""
        self.begun = time.monotonic()
        self.given, self.files = given, Files(given.out)
        self.team = _team(given.device)
        self.first = self.team.rank == 0
        self.news: News | None = None
        self.left_out = ""  # which of the held-out tokens, of a backbone of which few are kept

    def begin(self) -> None:
        """Make the folder of the head.

        Raises:
            CheckpointError: if something is there that no run like this has written.
        """
        out, plan = self.given.out, self.files["plan.json"]
        if out.exists() and not plan.exists():
            wrong = f"{out} is there, and no {plan.name} of it: something else would be lost"
            raise CheckpointError(f"{wrong}; give another --out, or remove it")
        out.parent.mkdir(parents=True, exist_ok=True)

    def alone(self) -> AbstractContextManager[None]:
        """Keep other runs from the files of the head; the first process does so for its team.

        Raises:
            AlreadyRunning: if one is at work on them.
        """
        return locked(self.files["lock"]) if self.first else nullcontext()

    def say(self, line: str = "") -> None:
        """Print, in the first process."""
        if self.first:
            print(line, flush=True)

    def tell(self, line: str) -> None:
        """Print what is news, in the first process."""
        if self.first:
            tell(line)

    @cached_property
    def device(self) -> torch.device:
        """Where circuit and backbone live."""
        return torch.device(self.given.device)

    @cached_property
    def pretrained(self) -> Pretrained | None:
        """The backbone, if there is one."""
        given = self.given
        if given.backbone is None:
            return None
        return load_pretrained(
            given.backbone,
            mask_token_id=given.mask_token_id,
            right_shift=given.right_shift,
            revision=given.revision,
            trust_remote_code=given.trust_remote_code,
            device=self.device,
        )

    @cached_property
    def texts(self) -> Texts:
        """What is learned from."""
        return Texts(self.given.text, self.given.field, self.given.encoding)

    @cached_property
    def encoder(self) -> Encoder:
        """The tokenizer: the one of the command line, or that of the backbone."""
        name, made = self.given.tokenizer, self.files["tokenizer.json"]
        if name is None:
            assert self.pretrained is not None
            return encoder_of(self.pretrained.tokenizer)
        begun = kept_plan(self.files["plan.json"], self.asked) is not None
        if not self.first:
            self.wait()  # for what the first one may have to learn
        found = open_encoder(name, self.texts, made, anew=self.first and not begun)
        if self.first:
            self.wait()
        return found

    @cached_property
    def end_of_text(self) -> str:
        """What stands behind every document, as text; empty if nothing does.

        Raises:
            TextError: if that is no token.
        """
        asked = self.given.end_of_text
        end = self.encoder.end_of_text if asked is None else asked
        if end:
            self.encoder.check_end(end)
        return end

    @property
    def sizes(self) -> tuple[int, int]:
        """V and the mask: what the command line says, the backbone, or the tokenizer."""
        given, model = self.given, self.pretrained
        known = self.encoder if model is None else model.tokenizer
        size = given.vocabulary_size or known.vocabulary_size
        at_end = known.mask_token_id == known.vocabulary_size
        mask = size if at_end else known.mask_token_id
        return size, mask if given.mask_token_id is None else given.mask_token_id

    @cached_property
    def store(self) -> TokenStore:
        """The text as tokens, from the folder where they are kept, or put there now."""
        size, _ = self.sizes
        validation = self.given.validation
        told = [self.texts.told, self.given.field, self.given.encoding, validation, size]
        told += [self.end_of_text] if self.end_of_text else []
        key = hashlib.sha256(json.dumps([*told, self.encoder.fingerprint]).encode()).hexdigest()
        folder = self.given.tokens or self.given.out.parent / "tokens"
        path = Path(folder) / key[:16]
        if self.first and not path.exists():
            encode, texts = self.encoder.encode, replace(self.texts, end=self.end_of_text)
            try:
                TokenStore.write(path, texts, encode, size, validation=validation, told=key)
            except OSError:
                if not path.exists():  # or else another run came first
                    raise
        self.wait()
        return TokenStore(path)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.team.together:
            dist.barrier()

    @cached_property
    def train(self) -> Windows:
        """What to learn from."""
        given = self.given
        return Windows(
            self.store,
            given.length,
            batch_size=given.batch_size,
            steps=given.part_steps,
            seed=given.seed,
        )

    @cached_property
    def held_out(self) -> Windows:
        """What to judge by."""
        whole = Windows(self.store, self.given.length, held_out=True, seed=self.given.seed)
        return whole.at_most(JUDGED)

    @cached_property
    def model(self) -> pf.CompiledCircuit:
        """The circuit."""
        draws = torch.Generator().manual_seed(self.given.seed)
        chain = text_chain(self.store, self.given.states, self.given.length, draws)
        return pf.compile(chain, self.device)

    @property
    def asked(self) -> Settings:
        """What decides what comes out, as far as the command line says it."""
        names = ("states", "length", "batch_size", "seed", "part_steps", "epochs", "minutes")
        name = self.given.tokenizer
        learned = {"tokenizer": name if name and is_learned(name) else "a file"}
        return learned | {name: getattr(self.given, name) for name in names}

    @property
    def settings(self) -> Settings:
        """What decides what comes out."""
        return {"text and tokenizer": self.store.digest} | self.asked

    @cached_property
    def plan(self) -> Plan:
        """What is to be done: as it was begun, or measured now."""
        path = self.files["plan.json"]
        found = kept_plan(path, self.settings)
        if found is None:
            given, budget = self.given, self.given.minutes * 60
            found = make_plan(
                self.model,
                LEARNER,
                self.train,
                self.held_out,
                -(-given.batch_size // self.team.size),
                epochs=given.epochs,
                seconds=budget - (time.monotonic() - self.begun),
            )
            self.wait()
            if self.first and not given.plan:
                keep_plan(path, self.settings, found)
            self.wait()
            found = found if given.plan else kept_plan(path, self.settings) or found
        return found

    def tell_plan(self) -> None:
        """Print it; where nothing else is wanted, it is no news."""
        tell = self.say if self.given.plan else self.tell
        store, plan, given = self.store, self.plan, self.given
        documents, held_out = len(store.held_out), int(store.held_out.sum())
        count = sum(parameter.numel() for parameter in self.model.parameters())
        end = datetime.now() + timedelta(minutes=plan.minutes)
        memory = "unknown" if plan.memory is None else f"{plan.memory / 2**20:,.0f} MiB at the most"
        processes = "" if self.team.size == 1 else f", {self.team.size} processes"
        tell(f"text      {len(store.tokens):,} tokens, V = {store.vocabulary_size:,}")
        ends = f", each ended by {self.end_of_text}" if self.end_of_text else ""
        tell(f"          {documents:,} documents{ends}, of which {held_out:,} are held out")
        tell(f"circuit   {given.states} states, {given.length} tokens, {count:,} parameters")
        tell(f"memory    {memory}, on {self.device}{processes}")
        tell(f"a step    {given.batch_size} windows in {plan.step_seconds:.3g} s")
        tell(f"to do     {counted(plan.epochs, 'epoch')} in {counted(plan.parts, 'part')}")
        tell(f"the end   in about {clock(plan.minutes * 60)}, at {end:%H:%M}")

    def check_blocks(self) -> None:
        """Refuse, before anything is learned, what the backbone could not be asked about.

        Raises:
            TextError: if blocks with their contexts are longer than it sees, or than documents are.
        """
        if self.pretrained is None:
            return
        given, most = self.given, self.pretrained.most_tokens
        length = given.context + given.length
        if most is not None and length > most:
            wrong = f"--context {given.context} and --length {given.length} are {length} tokens"
            raise TextError(f"{wrong}, {given.backbone} sees {most}: ask for less")
        for held_out in (False, True):
            rooms(self.store, length, held_out)

    def learn(self) -> None:
        """Fit the circuit to the text.

        Raises:
            KeyboardInterrupt: if it is interrupted; the circuit has its best parameters then.
        """
        rows = torch.arange(len(self.held_out))
        tokens = int((self.held_out.tokens_of(rows) >= 0).sum())
        all_tokens = int(self.store.counts.sum())
        means = (all_tokens / len(self.train), tokens / len(self.held_out))
        result = pf.FitResult()
        while self.news is None or self.news.plan is not self.plan:  # it was made shorter
            self.news = News(self.plan, means, told=self.first)
            result = self._fit(self.plan)
            self.wait()  # for the checkpoint
        self.news.take_up(result)  # of a run that was over, nothing was told

    def _fit(self, plan: Plan) -> pf.FitResult:
        """Learn by a plan, from where the checkpoint is."""
        given = self.given
        return pf.fit(
            self.model,
            self.train,
            LEARNER,
            epochs=plan.parts,
            batch_size=given.batch_size,
            validation=self.held_out,
            patience=max(10, 2 * plan.per_epoch, plan.parts // PATIENCE),
            checkpoint=self.files["checkpoint"],
            checkpoint_seconds=60 * given.checkpoint_minutes,
            after_epoch=self._is_to_be_shorter,
            distributed=self.team.together,
            progress=shown(),
            generator=torch.Generator().manual_seed(given.seed),
        )

    def _is_to_be_shorter(self, result: pf.FitResult) -> bool:
        """Tell the news; if the end would be late, make a shorter plan, from which to go on."""
        assert self.news is not None
        self.news(result)
        if self.given.epochs is not None:
            return False
        found = self.news.shorter()
        numbers = torch.tensor([found.parts, found.part_seconds], dtype=torch.float64)
        self.team.follow_first([numbers])  # all go by one clock
        parts, seconds = numbers.tolist()
        if int(parts) == self.plan.parts:
            return False
        self.plan = replace(self.plan, parts=int(parts), part_seconds=seconds)
        if self.first:
            keep_plan(self.files["plan.json"], self.settings, self.plan)
        self.tell(f"slower than planned: {self.plan.parts} parts, {self.plan.epochs:.3g} epochs")
        return True

    @cached_property
    def head(self) -> CircuitHead:
        """The circuit as an output layer."""
        _, mask = self.sizes
        given, made_for = self.given, self.encoder.fingerprint
        top_k: TopK = given.top_k or "auto"
        return CircuitHead(self.model, mask, given.coupling, top_k, tokenizer=made_for)

    def blocks(self, held_out: bool) -> StoredLogits:
        """What the backbone says of blocks of the text."""
        assert self.pretrained is not None
        given, kind = self.given, "held-out" if held_out else "train"
        folder = self.files["logits"] / kind
        if self.first:
            store_text(
                self.pretrained.backbone,
                folder,
                self.store,
                self.head,
                given.blocks // 8 if held_out else given.blocks,
                context=given.context,
                held_out=held_out,
                top_k=given.top_k or min(LISTED, self.store.vocabulary_size),
                seed=given.seed,
                progress=shown(),
            )
        self.wait()
        return StoredLogits(folder)

    def couple(self) -> Nats:
        """Fit the head to what the backbone says; nats per masked token before and after."""
        given = self.given
        self.tell(f"\n{given.backbone} is asked about {given.blocks} blocks.")
        train, held_out = self.blocks(held_out=False), self.blocks(held_out=True)
        share = unlisted(held_out, self.head.mask_token_id)
        if share > 0:
            kept = f"among the {held_out.top_k} that were kept of their position"
            self.left_out = f" ({share:.1%} are left out, as they are not {kept})"
        nats = {f"{given.coupling}, circuit of the text": coupled_nats(self.head, held_out)}
        fit_conditional(
            self.head,
            train,
            LEARNER,
            epochs=given.conditional_epochs,
            validation=held_out,
            checkpoint=self.files["conditional"],
            distributed=self.team.together,
            generator=torch.Generator().manual_seed(given.seed),
        )
        nats[f"{given.coupling}, circuit of Eq. 7"] = coupled_nats(self.head, held_out)
        if given.choose is not None:
            choose(self.head, held_out, given.choose)
            nats[f"chosen for {given.choose}: {self.head.coupling}"] = coupled_nats(
                self.head, held_out
            )
        return nats

    def save(self) -> None:
        """Write the head."""
        if self.first:
            self.head.save(self.given.out)

    def judge(self) -> Nats:
        """Nats per token of the circuit, and of what is simpler."""
        tokens = self.held_out.tokens_of(torch.arange(len(self.held_out)))
        unigram, bigram = token_nats(self.store, tokens)
        return {
            "unigram, held-out text": unigram,
            "bigram, held-out text": bigram,
            "circuit, held-out text": circuit_nats(self.model, self.held_out),
            "circuit, training text": circuit_nats(self.model, self.train.at_most(JUDGED)),
        }

    def report(self, nats: Nats, coupled: Nats) -> None:
        """Print what came of it, and draw it."""
        assert self.news is not None
        self.say(f"\n{table(nats)}")
        if coupled:
            self.say(f"\nNats per masked token of held-out blocks{self.left_out}:")
            self.say("\n".join(f"  {name}: {value:.3f}" for name, value in coupled.items()))
        draw(self.files["png"], self.news, {k: v for k, v in nats.items() if "gram" in k})
        written = ", ".join(str(path) for path in self.files.made())
        self.say(f"\nWritten: {written}\n\nUse it:\n{USE.format(path=self.given.out)}")


def _team(device: str) -> pf.Team:
    """This process alone, or those that torchrun started."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return pf.Team()
    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(days=1))
    return pf.Team(together=True)
