"""What the site takes from elsewhere: pages beside this folder, examples, lists of names, formulas.

Pages of the root name others by their files; here these links have the titles of pages. Pictures
lead to themselves, where they have all of their size.

Formulas are written as $a^b$, and become MathML as the site is built, so that no page loads a
script for them.
"""

import html
import posixpath
import re
from pathlib import Path
from typing import Any

import latex2mathml.converter
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
COPIED = ["LICENSE", "CITATION.cff", *(f"examples/{p.name}" for p in ROOT.glob("examples/*.py"))]

LINK = re.compile(r"(?<=\]\()([^)#\s]+)")
NAMED = re.compile(r"\[docs/(\w+\.md)\](?=\()")
FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\\(?P<open>[(\[])(?P<tex>.*?)\\[)\]]</\1>', re.DOTALL
)
CELL = re.compile(r"<td[^>]*>[^<]*</td>")
PICTURE = re.compile(r'(?<!>)<img [^>]*src="([^"]+\.png)"[^>]*>')
PROSE = re.compile(r"<(p|li)>.*?</\1>", re.DOTALL)
FUNCTION = re.compile(r"(<mi>(?:log|exp|min|max)</mi>)(?=<m(?:i|n|sub|sup|frac|row)\b)")
FACTOR = re.compile(r"(&#x00029;</mo>|</m(?:i|n|sub|sup|frac)>)(?=<mi>(?:log|exp)</mi>)")
OPTION = re.compile(r"<code>(?=--[\w-]+</code>)")
DOLLARS = re.compile(r"\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$]+?)\$", re.DOTALL)
HREF = re.compile(r'(?<=<a href=")(?!\w+:)([^"#]+)')
SCRIPT = re.compile(r"<script\b[^>]*>.*?</script>", re.DOTALL)
ELSEWHERE = re.compile(r"cdnjs|mathjax|src=\"\"", re.IGNORECASE)
"""Scripts of tutorials that would load others for formulas and diagrams."""

ENTRY = re.compile(
    r"^::: ([\w.]+)\n    options:\n      heading_level: \d\n(?:      members: \[([^\]]*)\])?",
    re.MULTILINE,
)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages of the root, and files that they link to."""
    titles = _titles(config.nav)
    for name, uri in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        text = NAMED.sub(lambda link: f"[{titles.get(link[1], link[1])}]", text)
        files.append(File.generated(config, uri, content=LINK.sub(_from_here, text)))
    for name in COPIED:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def _titles(nav: list[Any]) -> dict[str, str]:
    """What the navigation calls every page."""
    titles: dict[str, str] = {}
    for title, below in (item for entry in nav for item in entry.items()):
        titles |= _titles(below) if isinstance(below, list) else {below: title}
    return titles


def _from_here(link: re.Match[str]) -> str:
    """Where a link of the root leads on the site."""
    return PAGES.get(link[1], link[1].removeprefix("docs/"))


def _from_tutorial(link: str, tutorial: File, files: Files) -> str:
    """Where a link of a tutorial leads on the site; its cells come as they are."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(tutorial.src_uri), link))
    target = files.get_file_from_path(path)
    if target is None:
        raise PluginError(f"{tutorial.src_uri} links to {link}, and there is no {path}")
    return target.url_relative_to(tutorial)


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Say below the title of a page of the reference which names are on it."""
    names = [
        (path if members else path.rpartition(".")[0], name)
        for path, members in ENTRY.findall(markdown)
        for name in (members.replace(",", " ").split() or [path.rpartition(".")[2]])
    ]
    if not page.file.src_uri.startswith("reference/"):
        return markdown
    listed = " · ".join(f"[`{name}`][{path}.{name}]" for path, name in names)
    title, first, rest = markdown.split("\n\n", 2)
    return f"{title}\n\n{first}\n\n{listed}\n\n{rest}"


def on_page_content(content: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn formulas into MathML; keep options, and numbers with what they are of, together."""
    if page.file.src_uri.startswith("tutorials/"):
        content = PROSE.sub(lambda found: DOLLARS.sub(_of_dollars, found[0]), content)
        content = HREF.sub(lambda link: _from_tutorial(link[1], page.file, files), content)
        content = SCRIPT.sub(lambda found: "" if ELSEWHERE.search(found[0]) else found[0], content)
    content = OPTION.sub('<code class="option">', content)
    content = PICTURE.sub(r'<a href="\1">\g<0></a>', content)
    return CELL.sub(_unbroken, FORMULA.sub(_mathml, content))


def _unbroken(cell: re.Match[str]) -> str:
    return re.sub(r"(?<=[\d±]) (?=[%±\d])", "&nbsp;", cell[0])


def _of_dollars(found: re.Match[str]) -> str:
    """A formula of a tutorial, whose cells come as they are."""
    return _formula(found["block"] or found["inline"], block=bool(found["block"]))


def _mathml(found: re.Match[str]) -> str:
    return _formula(found["tex"], block=found["open"] == "[")


def _formula(tex: str, *, block: bool) -> str:
    """MathML; a formula on lines of its own is in a span that scrolls."""
    display = "block" if block else "inline"
    drawn = latex2mathml.converter.convert(html.unescape(tex), display=display)
    drawn = FUNCTION.sub(r'\1<mspace width="0.17em"/>', drawn)
    drawn = FACTOR.sub(r'\1<mspace width="0.17em"/>', drawn)
    return f'<span class="formula">{drawn}</span>' if block else drawn
