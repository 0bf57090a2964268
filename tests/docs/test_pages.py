"""The README and the pages of the site: links lead somewhere, the tree of folders is the real one."""

import re
from pathlib import Path

import pytest

from scripts.docs_site import ROOT, foreign_addresses, links_of, site_path
from tests.support.pages import files_of

PAGES = sorted(
    path
    for pattern in ("*.md", "bench/*.md", "charts/*/*.md", "docs/**/*.md", "k8s/**/*.md")
    for path in ROOT.glob(pattern)
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    texts = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in texts}


def broken_links(page: Path) -> list[str]:
    """The links of a page whose file or whose heading is not there."""
    found = []
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_to_a_file_and_a_heading(page: Path) -> None:
    assert broken_links(page) == []


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `heading`, here\n[a](#a-heading-here) [b](page.md#nowhere) [c](gone.md) [d](https://e.f)\n")
    assert broken_links(page) == ["page.md#nowhere", "gone.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_of_the_platform_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    written = files_of(page)
    named = {name.rstrip("/") for name in re.findall(r"`((?:plinth|charts)/[\w./-]+)`", text)}
    assert [name for name in sorted(named) if name not in written and not (ROOT / name).exists()] == []


def tree(page: Path) -> set[str]:
    """The folders of the tree that a page shows, each with its path."""
    (shown,) = re.findall(r"^```\n(app/ .*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    folders: list[str] = []
    for line in shown.splitlines():
        indent, name = re.fullmatch(r"( *)([\w-]+)/ +\S.*", line).groups()  # type: ignore[union-attr]
        parents = folders[-1].split("/")[: len(indent) // 2] if folders else []
        folders.append("/".join([*parents, name]))
    return set(folders)


def test_the_tree_of_the_architecture_names_folders_that_exist() -> None:
    shown = tree(ROOT / "docs" / "architecture.md")
    assert {"app/api/v1", "plinth/jobs/engine", "migrations/versions", "charts"} <= shown
    assert [name for name in sorted(shown) if not (ROOT / name).is_dir()] == []


def test_the_tree_of_the_architecture_has_every_folder_of_the_platform() -> None:
    """Not of the rest: a service adds folders without editing that page."""
    shown = {name for name in tree(ROOT / "docs" / "architecture.md") if name.startswith("plinth/")}
    folders = {path for path in (ROOT / "plinth").rglob("*/") if path.is_dir() and path.name != "__pycache__"}
    assert shown == {str(path.relative_to(ROOT)) for path in folders}


@pytest.mark.parametrize(
    ("file", "address"),
    [
        ("docs/jobs/index.md", "jobs/index.md"),
        ("k8s/operations/README.md", "k8s/operations/README.md"),
        (".env.example", "source/env.example.txt"),
        ("app/main.py", "source/app/main.py.txt"),
    ],
)
def test_files_of_the_repository_have_a_place_on_the_site(file: str, address: str) -> None:
    assert site_path(ROOT / file) == address


def test_links_in_code_and_to_other_hosts_are_no_files_of_the_site(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("[a](b.md#c) [d](https://e.f/g.md)\n```python\n[h](i.md)\n```\n[j](#k)\n")
    assert links_of(page) == [tmp_path / "b.md"]


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://other.example/a.js"></script>',
        '<link rel="stylesheet" href="//other.example/a.css">',
        '<img alt="" src="http://other.example/a.png">',
        '<iframe src="https://other.example/"></iframe>',
    ],
)
def test_what_a_page_loads_from_another_host_is_seen(html: str) -> None:
    assert len(foreign_addresses(f"<html><body>{html}</body></html>")) == 1


def test_links_to_click_and_own_files_load_nothing_from_another_host() -> None:
    html = '<a href="https://other.example/">o</a><script src="../a.js"></script><img src="data:image/png;base64,aa">'
    assert foreign_addresses(html) == []


def test_style_sheets_that_import_from_another_host_are_seen() -> None:
    style = '@import "https://other.example/a.css"; a { background: url(//other.example/b.png), url(c.png) }'
    assert len(foreign_addresses(style, style=True)) == 2
