"""What a head is in files, in folders, and on the hub of models."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import torch
from torch import nn

from pcflow import Automaton, CompiledCircuit, PcflowError, compile, read_juice
from pcflow_diffusion.errors import CheckpointError
from pcflow_diffusion.head.card import model_card
from pcflow_diffusion.head.coupling import Coupling
from pcflow_diffusion.head.files import SETTINGS, read_head, write_head
from pcflow_diffusion.head.hub import FILE, found_file, upload, write_card
from pcflow_diffusion.head.listing import TopK
from pcflow_diffusion.head.tokenizers import check_made_for, fingerprint


class Kept(nn.Module):
    """A head, as far as it is written and read; `CircuitHead` has the rest."""

    model: CompiledCircuit
    coupling: Coupling
    modulation: nn.Module | None
    constraint: Automaton | None
    mask_token_id: int
    top_k: TopK
    tokenizer: str | None
    length: int
    vocabulary_size: int

    def save(self, path: str | os.PathLike[str], *, dtype: torch.dtype | None = None) -> None:
        """Write the head to one safetensors file, which is replaced in one step; never a pickle.

        In it are the circuit with its present parameters, the coupling with its powers, the mask,
        `top_k`, the weights of a `Modulation`, the constraint, and what tells the tokenizer apart.

        Args:
            path: where to; its directory must exist.
            dtype: `torch.bfloat16` for a circuit of half the bytes, see `pcflow.save`.

        Raises:
            CheckpointError: if coupling or modulation are not of this package.
            OSError: if it cannot be written; an old file is left as it was.

        Examples:
            >>> import tempfile, pcflow as pf
            >>> from pcflow_diffusion import CircuitHead
            >>> head = CircuitHead(pf.compile(pf.hmm(3, 2, pf.Categorical(4))), 4, top_k=2)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     head.save(f"{folder}/head.safetensors")
            ...     CircuitHead.load(f"{folder}/head.safetensors").top_k
            2
        """
        parts = self.model, self.coupling, self.modulation, self.constraint
        write_head(path, *parts, self._settings, dtype)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str | None = None) -> Self:
        """Read a file of `save`; nothing in it is executed, and the circuit is proved again.

        Args:
            path: the file.
            device: where circuit and modulation live.

        Returns:
            A head that says and, with a seed, draws what the saved one did.

        Raises:
            CheckpointError: if the file is truncated, of another format, or contradicts itself.
            OSError: if it cannot be read.
        """
        given = read_head(path, device)
        try:
            return cls(**given)
        except (PcflowError, TypeError) as error:
            raise CheckpointError(f"{path} does not describe a head: {error}") from error

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        base_model: str | None = None,
        training_text: str | None = None,
    ) -> None:
        """Write the head and a model card into a folder, as `from_pretrained` reads it.

        Args:
            folder: made if it is not there; `head.safetensors` and `README.md` in it are replaced,
                each in one step.
            base_model: whose output layer this is, which only you know, by its name on the hub.
            training_text: what the circuit was trained on, in a few words.

        Raises:
            CheckpointError: see `save`.
            OSError: if it cannot be written.

        Examples:
            >>> import tempfile, pcflow as pf
            >>> from pcflow_diffusion import CircuitHead
            >>> head = CircuitHead(pf.compile(pf.hmm(3, 2, pf.Categorical(4))), mask_token_id=4)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     head.save_pretrained(folder, training_text="four letters")
            ...     CircuitHead.from_pretrained(folder).length
            3
        """
        self._write(Path(folder), Path(folder).resolve().name, base_model, training_text)

    def push_to_hub(
        self,
        repo: str,
        *,
        base_model: str | None = None,
        training_text: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        commit_message: str = "Upload a circuit head",
        token: str | bool | None = None,
    ) -> str:
        """Put the head and a model card into a repository of the hub; needs `pcflow[hub]`.

        Args:
            repo: "owner/name"; made if it is not there. Head and card in it are replaced.
            base_model: see `save_pretrained`, as `training_text`.
            training_text: likewise.
            revision: a branch, made if it is not there; the main one by default.
            private: whether a new repository is.
            commit_message: of the one commit.
            token: who you are; what `hf auth login` left by default.

        Returns:
            Where the commit is to be seen.

        Raises:
            CheckpointError: see `save`.
            ImportError: if huggingface_hub is not installed. Its own errors are passed on.
        """
        with TemporaryDirectory() as folder:
            self._write(Path(folder), repo, base_model, training_text)
            return upload(Path(folder), repo, revision, private, commit_message, token)

    def _write(
        self, folder: Path, name: str, base_model: str | None, training_text: str | None
    ) -> None:
        """Write head and card."""
        facts: dict[str, object] = {
            "base model": base_model,
            "tokenizer": self.tokenizer,
            "mask": self.mask_token_id,
            "vocabulary": f"{self.vocabulary_size:,} tokens",
            "length": f"{self.length} tokens",
            "coupling": self.coupling,
            "top_k": self.top_k or "all tokens",
            "modulation": "none" if self.modulation is None else "by the backbone",
            "constraint": self.constraint or "none",
            "training text": training_text,
        }
        folder.mkdir(parents=True, exist_ok=True)
        self.save(folder / FILE)
        write_card(folder, model_card(name, self.model, self.length, facts))

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        tokenizer: object = None,
        device: torch.device | str | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> Self:
        """Read a head from a folder, or from a repository of the hub (`pcflow[hub]`).

        Its safetensors file is all that is brought and read, and nothing in it is executed.

        Args:
            name: a folder, or "owner/name" where there is no such folder.
            tokenizer: refuse a head that was made for another one; see `fingerprint`.
            device: where circuit and modulation live.
            revision: a branch, a tag or, which nobody can move, the whole hash of a commit.
            cache_dir: where the hub's files are kept.
            local_files_only: ask nobody for what is not kept.
            token: who you are; what `hf auth login` left by default.

        Raises:
            CheckpointError: if `name` is neither, or see `load`.
            ImportError: if there is no such folder, and huggingface_hub is not installed. Its own
                errors are passed on.
            OSError: if the folder has no `head.safetensors`.
            SettingError: if a revision of a folder is asked for.
            TokenizerMismatch: if it was made for another tokenizer, or does not say for which.
        """
        wanted = None if tokenizer is None else fingerprint(tokenizer)
        how = {"local_files_only": local_files_only, "token": token}
        head = cls.load(found_file(name, revision, cache_dir=cache_dir, **how), device)
        if wanted is not None:
            check_made_for(head.tokenizer, wanted)
        return head

    @classmethod
    def read_juice(
        cls,
        path: str | os.PathLike[str],
        mask_token_id: int,
        device: torch.device | str | None = None,
        **settings: Any,
    ) -> Self:
        """A head on a circuit that PyJuice saved, such as the published ones of CoDD.

        Args:
            path: the .jpc file; see `pcflow.read_juice`.
            mask_token_id: which the file does not say.
            device: where the circuit lives.
            settings: what else a head takes: `coupling`, `top_k`, `tokenizer`, `constraint`.

        Raises:
            FileFormatError: if the file is truncated or hostile, or holds another circuit than one
                of categories.
            OSError: if it cannot be read.
            ShapeMismatch: if its positions do not all have the same number of categories.
        """
        return cls(compile(read_juice(path), device), mask_token_id, **settings)

    @property
    def _settings(self) -> dict[str, Any]:
        """What it was given beside circuit, coupling, modulation and rule."""
        return {name: getattr(self, name) for name in SETTINGS}
