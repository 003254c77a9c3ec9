"""A circuit head from a folder of text: `python -m pcflow_diffusion.train --help`.

    python -m pcflow_diffusion.train --text FOLDER --tokenizer train:8000 --out head.safetensors
    python -m pcflow_diffusion.train --text FOLDER --backbone NAME --choose drawing

What it needs later lies beside the head: it can be stopped at any time, by force too, and the same
command goes on to the same head. `torchrun -m pcflow_diffusion.train` shares every batch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist

import pcflow as pf
from pcflow_diffusion.checks import (
    Command,
    as_count,
    as_not_negative,
    as_positive,
    as_seed,
    as_whole,
)
from pcflow_diffusion.models.progress import INTERRUPTED, quietly
from pcflow_diffusion.train.from_text import TextRun

DEFAULT_MINUTES = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, train, report.

    Returns:
        0, or 1 after an error of the files or of the settings, which is told in a line, or 130 if
        it was interrupted, after the best head so far was written.
    """
    given = parse(arguments)
    try:
        with quietly(given.quiet):
            return run(given)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return INTERRUPTED
    except (pf.PcflowError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def run(given: argparse.Namespace) -> int:
    """The steps, one after the other."""
    work = TextRun(given)
    work.begin()
    with work.alone():
        return _work(work, given)


def _work(work: TextRun, given: argparse.Namespace) -> int:
    """What no other run may do at the same time."""
    work.check_blocks()
    work.tell_plan()
    if given.plan:
        return 0
    try:
        work.learn()
        nats = work.judge()
        coupled = {} if given.backbone is None else work.couple()
    except KeyboardInterrupt:
        work.save()
        work.say(f"\nInterrupted: {given.out} is the best so far; the same command goes on.")
        return INTERRUPTED
    work.save()
    if work.first:
        work.report(nats, coupled)
    work.wait()
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked as far as it can be without reading anything."""
    parser = Command("pcflow_diffusion.train", __doc__)
    _add_text(parser)
    _add_training(parser)
    _add_head(parser)
    given = parser.parse_args(arguments)
    if given.tokenizer is None and given.backbone is None:
        parser.error("--tokenizer is needed, or a --backbone that has one")
    if given.choose is not None and given.backbone is None:
        parser.error("--choose needs a --backbone, for which a coupling is chosen")
    if given.minutes is not None and given.epochs is not None:
        parser.error("--minutes or --epochs, not both")
    given.minutes = DEFAULT_MINUTES if given.minutes is None else given.minutes
    return given


def _add_text(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--text", nargs="+", required=True, metavar="PATH", help="files; folders of .txt .md .jsonl"
    )
    parser.add_argument(
        "--tokenizer",
        metavar="NAME",
        help='a tokenizer.json, a folder that has one, "characters", or "train:8000" for so many '
        "subwords of the text (default: the backbone's)",
    )
    parser.add_argument("--field", default="text", help="of .jsonl files (%(default)s)")
    parser.add_argument("--encoding", default="utf-8", help="of all files (%(default)s)")
    parser.add_argument(
        "--validation", type=float, default=0.05, help="share of documents held out (%(default)s)"
    )
    parser.add_argument(
        "--end-of-text",
        metavar="TOKEN",
        help="that stands behind every document (default: the eos_token of the tokenizer, if it "
        'names one); "" for none',
    )
    parser.add_argument("--tokens", type=Path, help="folder to keep tokens in (tokens/ by --out)")
    parser.add_argument("--vocabulary-size", type=as_count, help="V, where no config.json says it")


def _add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--states", type=as_count, default=256, help="of the HMM (%(default)s)")
    parser.add_argument("--length", type=as_count, default=32, help="tokens it spans (%(default)s)")
    parser.add_argument(
        "--minutes", type=as_positive, help=f"for all of the text ({DEFAULT_MINUTES:g})"
    )
    parser.add_argument("--epochs", type=as_positive, help="how often to go over the text instead")
    parser.add_argument("--batch-size", type=as_count, default=512, help="windows (%(default)s)")
    parser.add_argument(
        "--part-steps", type=as_count, default=100, help="between looks (%(default)s)"
    )
    parser.add_argument(
        "--checkpoint-minutes", type=as_not_negative, default=3.0, help="(%(default)g)"
    )
    parser.add_argument("--seed", type=as_seed, default=0, help="(%(default)s)")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", type=_device, default=device, help="(%(default)s)")
    parser.add_argument("--plan", action="store_true", help="say what would be done, and stop")


def _add_head(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("head.safetensors"), help="(%(default)s)")
    parser.add_argument(
        "--coupling", choices=("product", "ratio", "projection"), default="projection"
    )
    parser.add_argument("--top-k", type=as_count, help="tokens of the backbone that are possible")
    parser.add_argument("--mask-token-id", type=int, help="where no config.json says it")
    parser.add_argument("--backbone", help="a masked language model of transformers to fit it to")
    parser.add_argument("--revision", help="of the backbone, where it is a name")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code of the backbone")
    parser.add_argument(
        "--right-shift", action="store_true", help="its logits are of the next token"
    )
    parser.add_argument(
        "--blocks", type=as_count, default=4096, help="it is asked about (%(default)s)"
    )
    parser.add_argument(
        "--context", type=as_whole, default=96, help="tokens before each (%(default)s)"
    )
    parser.add_argument("--conditional-epochs", type=as_count, default=6, help="(%(default)s)")
    parser.add_argument("--choose", choices=("drawing", "likelihood"), help="the coupling for that")


def _device(word: str) -> str:
    try:
        torch.empty(0, device=word)
    except (AssertionError, RuntimeError) as error:
        raise argparse.ArgumentTypeError(f"{word}: {str(error).splitlines()[0]}") from error
    return word


if __name__ == "__main__":
    sys.exit(main())
