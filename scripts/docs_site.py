"""Hooks of MkDocs, which make one site of the pages and files of this repository.

Pages keep the links that work in the repository. A page outside of `docs/` that another page links to becomes a page of
the site, any other file is served as text. Diagrams are checked, and nothing may be loaded from another host.
"""

import os
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

__all__ = ["foreign_addresses", "links_of", "on_files", "on_page_content", "on_page_markdown", "on_post_build"]

ROOT = Path(__file__).resolve().parents[1]
MERMAID = "assets/javascripts/mermaid.js"

_FENCE = re.compile(r"^(```+).*?^\1$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<=\]\()[^)\s]+(?=\))")
_STYLE_ADDRESS = re.compile(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')\s]+)""")


def on_files(files: Any, config: Any) -> Any:
    """Add what pages link to outside of `docs/`, and the script that draws diagrams."""
    import mermaidx
    from mkdocs.structure.files import File

    script = Path(mermaidx.__file__).parent / "assets" / "mermaid.js"
    files.append(File.generated(config, MERMAID, abs_src_path=str(script)))
    pages = [Path(file.abs_src_path) for file in files.documentation_pages()]
    wanted = [ROOT / name for name in _pages_of(config.nav)] + [target for page in pages for target in links_of(page)]
    while wanted:
        target = wanted.pop()
        if target.is_file() and files.get_file_from_path(site_path(target)) is None:
            files.append(File.generated(config, site_path(target), abs_src_path=str(target)))
            wanted += links_of(target) if target.suffix == ".md" else []
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links to where their target is on the site."""
    source = Path(page.file.abs_src_path)
    folder = Path(page.file.src_uri).parent

    def moved(link: re.Match[str]) -> str:
        path, hash_sign, anchor = link[0].partition("#")
        target = (source.parent / path).resolve()
        if not path or urlsplit(path).scheme or not target.is_relative_to(ROOT) or not target.is_file():
            return link[0]  # if it is a mistake, MkDocs says so
        return os.path.relpath(site_path(target), folder) + hash_sign + anchor

    return "".join(part if part.startswith("```") else _LINK.sub(moved, part) for part in _with_fences(markdown))


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Check a page's diagrams, and have it load the script that draws them before the theme looks for one elsewhere."""
    import mermaidx

    diagrams = re.findall(r"^```mermaid\n(.*?)^```$", page.markdown, re.MULTILINE | re.DOTALL)
    for diagram in diagrams:
        mermaidx.render(diagram).svg()  # raises where it cannot be read
    if not diagrams:
        return html
    address = os.path.relpath(MERMAID, Path(page.file.dest_uri).parent)
    return f'{html}<script src="{address}"></script>'


def on_post_build(config: Any, **_: Any) -> None:
    """Refuse a site that loads something from another host."""
    from mkdocs.exceptions import PluginError

    site = Path(config.site_dir)
    for file in sorted([*site.rglob("*.html"), *site.rglob("*.css")]):
        if found := foreign_addresses(file.read_text(encoding="utf-8"), style=file.suffix == ".css"):
            raise PluginError(f"{file.relative_to(site)} loads from other hosts: {', '.join(found)}")


def links_of(page: Path) -> list[Path]:
    """The files of the repository that a page links to, whether they exist or not."""
    text = "".join(part for part in _with_fences(page.read_text(encoding="utf-8")) if not part.startswith("```"))
    paths = {link.partition("#")[0] for link in _LINK.findall(text) if not urlsplit(link).scheme}
    return sorted((page.parent / path).resolve() for path in paths if path and not path.startswith("/"))


def site_path(file: Path) -> str:
    """Where a file of the repository is on the site. What is no page is text, whatever its name ends with."""
    path = file.relative_to(ROOT)
    if path.parts[0] == "docs":
        return path.relative_to("docs").as_posix()
    if path.suffix == ".md":
        return path.as_posix()
    return (Path("source") / path.with_name(f"{path.name.lstrip('.')}.txt")).as_posix()


def foreign_addresses(text: str, *, style: bool = False) -> list[str]:
    """The addresses on other hosts that a page or a style sheet loads by itself."""
    addresses = _STYLE_ADDRESS.findall(text) if style else _Loaded.of(text)
    return [address for address in addresses if urlsplit(address).netloc]


class _Loaded(HTMLParser):
    """Collects what a browser fetches to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    @classmethod
    def of(cls, html: str) -> list[str]:
        parser = cls()
        parser.feed(html)
        return parser.addresses

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = ("src", "srcset", "poster", "data") if tag != "link" else ("href",)
        self.addresses += [value for name, value in attrs if name in names and value]


def _pages_of(nav: Any) -> list[str]:
    """The pages that the navigation names."""
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in _pages_of(part)]


def _with_fences(markdown: str) -> Iterator[str]:
    """The parts of a page: text and code blocks by turns."""
    position = 0
    for fence in _FENCE.finditer(markdown):
        yield markdown[position : fence.start()]
        yield fence[0]
        position = fence.end()
    yield markdown[position:]
