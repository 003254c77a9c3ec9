"""English prose out of folders of documentation: paragraphs without code, tables and markup.

    python benchmarks/prose.py FOLDER [FOLDER ...] --out english.txt

Reads .txt, .rst, .pod, .info and .html, gzipped or not, wherever they are below the folders. A
paragraph is prose if it is long, made of letters nearly all, and ends like a sentence; it is
written once, however many files have it. Paragraphs of a file stay together; files stand in an
order that says nothing about them, so that the last tenth, which is what evaluations hold out, is
like the rest.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path

from toy import TOY, arguments, size

import pcflow as pf

KINDS = re.compile(r"\.(txt|rst|pod|info(-\d+)?|html?)(\.gz)?$")
BREAKS = {"p", "div", "li", "td", "th", "dd", "dt", "pre", "h1", "h2", "h3", "h4", "br", "body"}
MARKUP = {".pod": r"[A-Z]<([^<>]*)>", ".info": r"\*note\s+([^:]*)::"}  # around words that stay
UNREAD = {"script", "style", "pre", "head", "nav", "table"}
SHORTEST, LETTERS = 120, 0.93


class Words(HTMLParser):
    """The words of a page, a blank line wherever a block of it begins or ends."""

    def __init__(self, page: str) -> None:
        """Read it all."""
        super().__init__()
        self.parts: list[str] = []
        self.unread = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        """What is no prose is left out up to its end."""
        self.unread += tag in UNREAD
        self.handle_block(tag)

    def handle_endtag(self, tag: str) -> None:
        """And read again after it."""
        self.unread = max(0, self.unread - (tag in UNREAD))
        self.handle_block(tag)

    def handle_block(self, tag: str) -> None:
        """A paragraph ends."""
        if tag in BREAKS:
            self.parts.append("\n\n")

    def handle_data(self, data: str) -> None:
        """Words, on one line."""
        if not self.unread:
            self.parts.append(re.sub(r"\s+", " ", data))


def text_of(path: Path) -> str:
    """What a file says, without the markup of its kind."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode(errors="replace")
    if ".htm" in path.name:
        return "".join(Words(text).parts)
    markup = next((of for kind, of in MARKUP.items() if kind in path.name), None)
    return re.sub(markup, r"\1", text) if markup else text


def is_prose(paragraph: str) -> bool:
    """Whether it reads as English: letters nearly all, and the end of a sentence."""
    letters = sum(c.isalpha() or c in " ,.'-" for c in paragraph)
    told = len(paragraph) >= SHORTEST and letters >= LETTERS * len(paragraph)
    return told and paragraph.isascii() and paragraph[0].isalpha() and paragraph[-1] in ".?!"


def documents(paths: Iterable[Path]) -> Iterator[str]:
    """The prose of every file that has some; every paragraph once."""
    seen: set[str] = set()
    for path in paths:
        parts = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text_of(path)))
        told = dict.fromkeys(part for part in parts if part and is_prose(part))
        if new := [part for part in told if part not in seen]:
            seen.update(new)
            yield "\n\n".join(new)


def shuffled(texts: Iterable[str]) -> list[str]:
    """The same, in an order that is the same everywhere."""
    return sorted(texts, key=lambda text: zlib.crc32(text.encode()))


def main() -> None:
    """Read the command line, write the file."""
    parser = arguments(__doc__)
    parser.add_argument("folders", type=Path, nargs=size("+", "*"))
    parser.add_argument("--out", type=Path, required=not TOY, default=Path("english.txt"))
    given = parser.parse_args()
    if TOY:
        page = Path("toy.html")
        page.write_text(f"<pre>x = 1</pre><p>{'Words make a sentence, as a rule. ' * 5}</p>")
        given.folders = [page.parent]
    found = sorted(path for folder in given.folders for path in folder.rglob("*"))
    files = [path for path in found if KINDS.search(path.name) and path.is_file()]
    text = "\n\n\n".join(shuffled(documents(files)))
    pf.replace_file(given.out, [text.encode()])
    print(f"{len(text):,} characters of {len(files):,} files")


if __name__ == "__main__":
    main()
