"""The text that the package carries: the World English Bible, in the public domain."""

from __future__ import annotations

import lzma
import re
from collections.abc import Mapping
from pathlib import Path

PATH = Path(__file__).parent / "checkpoints" / "english.txt.xz"


def joined(chapters: Mapping[str, str]) -> str:
    """Chapters one after another, each below its name."""
    return "".join(f"# {name}\n\n{text}\n\n" for name, text in chapters.items())


def english() -> dict[str, str]:
    """The chapters by name."""
    _, *parts = re.split(r"^# (.*)\n\n", lzma.decompress(PATH.read_bytes()).decode(), flags=re.M)
    return dict(zip(parts[::2], (text.strip() for text in parts[1::2]), strict=True))
