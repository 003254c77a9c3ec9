"""What the site takes from elsewhere: pages beside this folder, examples, and formulas as MathML.

Formulas are written as $a^b$, and become MathML as the site is built, so that no page loads a
script for them.
"""

import html
import re
from pathlib import Path

import latex2mathml.converter
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
COPIED = ["LICENSE", "CITATION.cff", *(f"examples/{p.name}" for p in ROOT.glob("examples/*.py"))]

LINK = re.compile(r"(?<=\]\()([^)#\s]+)")
FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\\(?P<open>[(\[])(?P<tex>.*?)\\[)\]]</\1>', re.DOTALL
)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages of the root, and files that they link to."""
    for name, uri in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, uri, content=LINK.sub(_from_here, text)))
    for name in COPIED:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def _from_here(link: re.Match[str]) -> str:
    """Where a link of the root leads on the site."""
    return PAGES.get(link[1], link[1].removeprefix("docs/"))


def on_page_content(content: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn formulas into MathML."""
    return FORMULA.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    display = "block" if found["open"] == "[" else "inline"
    return latex2mathml.converter.convert(html.unescape(found["tex"]), display=display)
