"""Make `english.txt.xz`: the World English Bible, chapter by chapter, without its notes.

    apt-get download sword-text-web && dpkg-deb -x sword-text-web_*.deb FOLDER
    python -m pcflow_diffusion.models.checkpoints.make_text FOLDER

Modern English prose that is in the public domain everywhere. The package of Debian holds it as a
module of SWORD: verses with markup, compressed book by book.
"""

from __future__ import annotations

import argparse
import lzma
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pcflow as pf
from pcflow_diffusion.models.english import PATH, joined

MODULE = "usr/share/sword/modules/texts/ztext/engWEB2015eb"
CHAPTER = re.compile(r'<chapter [^>]*osisID="([^"]*)"[^>]*>(.*?)(?=<chapter)', re.DOTALL)
DROPPED = re.compile(r"<(note|title|speaker)\b[^>]*>.*?</\1>", re.DOTALL)
PARAGRAPH = re.compile(r'<div [^>]*type="x-p"[^>]*>')


def verses(module: Path, testament: str) -> Iterator[str]:
    """The verses of a testament, with markup, in order."""
    blocks, places, texts = (
        module.joinpath(f"{testament}.{kind}").read_bytes() for kind in ("bzs", "bzv", "bzz")
    )
    books = [
        zlib.decompress(texts[start : start + size]) if size else b""
        for start, size, _ in struct.iter_unpack("<III", blocks)
    ]
    for book, start, size in struct.iter_unpack("<IIH", places):
        yield books[book][start : start + size].decode() if size else ""


def chapters(marked: str) -> dict[str, str]:
    """Plain text by the name of the chapter, a blank line between paragraphs."""
    return {name: plain(text) for name, text in CHAPTER.findall(DROPPED.sub(" ", marked))}


def plain(marked: str) -> str:
    """Paragraphs without markup."""
    lines = re.sub(r"<l\b", " <", marked)
    parts = (re.sub(r"<[^>]*(>|$)", "", part) for part in PARAGRAPH.split(lines))
    words = (re.sub(r" (?=[,.;:?!\u2019\u201d])", "", " ".join(part.split())) for part in parts)
    return "\n\n".join(part for part in words if part)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, write the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the package was unpacked")
    parser.add_argument("--out", type=Path, default=PATH, help="file to write (%(default)s)")
    given = parser.parse_args(arguments)
    module = given.folder / MODULE
    found = chapters("".join(verse for part in ("ot", "nt") for verse in verses(module, part)))
    pf.replace_file(given.out, [lzma.compress(joined(found).encode(), preset=9)])


if __name__ == "__main__":
    main()
