"""Functions in processes of their own: what all of them import is imported once, for their parent.

Python and torch take longer to start than most of what tests do with them.
"""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import torch

PRELOADED = ["pcflow_diffusion", "pcflow.testing", "pytest", "torch._dynamo"]
"""The last is what optimizers of torch import when the first one is made."""

PATIENCE = 120
"""Seconds after which a process hangs."""

ROOT = Path(__file__).parent.parent


def start(
    told: Callable[..., object], *given: object, environment: Mapping[str, str] | None = None
) -> ForkServerProcess:
    """A function of a module in a process of its own, on the CPU, with one thread."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_do, args=(dict(environment or {}), told, given))
    with pytest.MonkeyPatch.context() as patch:  # read by the first one
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path]))
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        process.start()
    return process


def start_together(
    count: int, told: Callable[..., object], *given: object
) -> list[ForkServerProcess]:
    """A function in several processes, who know of each other what `torchrun` would tell them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    team = {"WORLD_SIZE": str(count), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    return [
        start(told, *given, environment=team | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(count)
    ]


def ends(processes: Iterable[ForkServerProcess]) -> list[int | None]:
    """How each of them ends; None if it had not and was ended, so that nobody waits at exit."""
    return [_end(process) for process in processes]


def _end(process: ForkServerProcess) -> int | None:
    process.join(PATIENCE)
    found = process.exitcode
    if found is None:
        process.kill()
        process.join()
    return found


def _do(
    environment: dict[str, str], told: Callable[..., object], given: tuple[object, ...]
) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    told(*given)
