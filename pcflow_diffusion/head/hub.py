"""Heads in folders, and on the hub of models by huggingface_hub (extra: `pcflow[hub]`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pcflow import SettingError, replace_file
from pcflow_diffusion.errors import CheckpointError

FILE, CARD = "head.safetensors", "README.md"


def found_file(name: str | os.PathLike[str], revision: str | None, **how: Any) -> Path:
    """Where the file of a head is: in a folder, or brought from the hub, alone.

    Raises:
        CheckpointError: if there is no such folder, and it is no name of the hub either.
        ImportError: if there is no such folder, and huggingface_hub is not installed.
        SettingError: if a folder is asked for a revision.
    """
    if Path(name).is_dir():
        wanted = "left out, as a folder has none"
        SettingError.check("revision", revision, wanted, lambda given: given is None)
        return Path(name) / FILE
    hub = _hub(f"{name} is no folder")
    try:
        return Path(hub.hf_hub_download(os.fspath(name), FILE, revision=revision, **how))
    except hub.errors.HFValidationError as error:
        raise CheckpointError(f"{name} is neither a folder nor a name of the hub") from error


def write_card(folder: Path, text: str) -> None:
    """Write the card beside the file, in one step."""
    replace_file(folder / CARD, [text.encode()])


def upload(
    folder: Path, repo: str, revision: str | None, private: bool | None, message: str, token: Any
) -> str:
    """Put file and card of a folder into a repository, made if it is not there, in one commit.

    Returns:
        Where the commit is to be seen.

    Raises:
        ImportError: if huggingface_hub is not installed.
    """
    hub = _hub("nothing can be pushed")
    repo = hub.create_repo(repo, private=private, token=token, exist_ok=True).repo_id
    if revision is not None:
        hub.create_branch(repo, branch=revision, token=token, exist_ok=True)
    done = hub.upload_folder(
        repo_id=repo,
        folder_path=folder,
        allow_patterns=[FILE, CARD],
        revision=revision,
        commit_message=message,
        token=token,
    )
    return str(done.commit_url)


def _hub(why: str) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(f"{why}, and the hub needs: pip install 'pcflow[hub]'") from error
    return huggingface_hub
