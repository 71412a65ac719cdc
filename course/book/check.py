"""Check a built site as a reader would stumble over it: links, pictures, what a page loads, and the way through it.

``python -m course.book.check [FOLDER]`` says what is wrong and ends with an error; `problems` lists the same lines.
Nothing is fetched: of a link to another host only the form is checked.
"""

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Pages that Sphinx makes beside the book, and the explorer, stand outside of the order of reading.
ALONE = re.compile(r"(genindex|py-modindex|search)\.html|_modules/.*|explorer/.*")
OUTSIDE = re.compile(r"https?://[\w-]+(\.[\w-]+)+(:\d+)?(/[^\s<>\"]*)?|mailto:[^@\s]+@[\w.-]+")
LOADS = {"script", "img", "iframe", "source", "video", "audio", "embed"}
FETCHED = {"stylesheet", "preload", "prefetch", "modulepreload", "icon", "shortcut", "manifest", "preconnect"}
CSS_URL = re.compile(r"""(?:url\(|@import)\s*["']?([^"')\s;]+)""")


class Page(HTMLParser):
    """What a page names: its anchors, where it leads, what it loads, and its pictures."""

    def __init__(self, text: str):
        super().__init__()
        self.anchors, self.links, self.loads, self.pictures = set(), [], [], []
        self.relations, self.styled = set(), False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag names."""
        found = dict(attrs)
        self.anchors |= {found[key] for key in ("id", "name") if found.get(key)}
        if tag in ("a", "area") and found.get("href"):
            self.links.append(found["href"])
        if tag == "a" and {"left-prev", "right-next"} & set((found.get("class") or "").split()):
            self.relations |= set((found["class"] or "").split())
        if tag == "link" and FETCHED & set((found.get("rel") or "").split()):
            self.loads.append(found.get("href", ""))
        if tag in LOADS and found.get("src"):
            self.loads.append(found["src"])
        if tag == "img":
            self.pictures.append((found.get("src", ""), found.get("alt") or ""))
        self.loads += CSS_URL.findall(found.get("style") or "")
        self.styled = tag == "style"

    def handle_data(self, data: str) -> None:
        """Note what a style sheet in the page loads."""
        if self.styled:
            self.loads += CSS_URL.findall(data)


def pages(site: Path) -> dict[str, Page]:
    """Read every page of the site, by its path from the site's root."""
    found = sorted(path for path in site.rglob("*.html") if "_static" not in path.relative_to(site).parts)
    return {path.relative_to(site).as_posix(): Page(path.read_text(encoding="utf-8")) for path in found}


def lead_somewhere(site: Path, book: dict[str, Page]) -> Iterator[str]:
    """Check that each link leads to a file of the site and an anchor in it, or looks like an address elsewhere."""
    for name, page in book.items():
        for link in page.links + page.loads:
            to = urlsplit(link)
            if to.scheme or to.netloc:
                if to.scheme != "data" and not OUTSIDE.fullmatch(link):
                    yield f"{name}: {link} is no address"
                continue
            path = ((site / name).parent / unquote(to.path)).resolve() if to.path else site / name
            path = path / "index.html" if path.is_dir() else path
            if not path.is_file() or not path.is_relative_to(site.resolve()):
                yield f"{name}: {link} leads nowhere"
                continue
            other = book.get(path.relative_to(site.resolve()).as_posix())
            if to.fragment and other and unquote(to.fragment) not in other.anchors:
                yield f"{name}: {link}: no such place on that page"


def have_words(site: Path, book: dict[str, Page]) -> Iterator[str]:
    """Check that each picture has alternative text."""
    for name, page in book.items():
        yield from (f"{name}: {src} has no alternative text" for src, alt in page.pictures if not alt.strip())


def load_nothing_from_elsewhere(site: Path, book: dict[str, Page]) -> Iterator[str]:
    """Check that no page and no style sheet loads anything from another host."""
    loads = [(name, page.loads) for name, page in book.items()]
    loads += [(p.name, CSS_URL.findall(p.read_text(encoding="utf-8"))) for p in site.rglob("*.css")]
    for name, found in loads:
        for what in found:
            if urlsplit(what).scheme not in ("", "data") or urlsplit(what).netloc:
                yield f"{name} loads {what}"


def lead_on(site: Path, book: dict[str, Page]) -> Iterator[str]:
    """Check that each page of the book leads back and on; its first and its last have one of the two."""
    inside = {name: page.relations for name, page in book.items() if not ALONE.fullmatch(name)}
    for relation in ("left-prev", "right-next"):
        ends = [name for name, relations in inside.items() if relation not in relations]
        if len(ends) != 1:
            yield f"without {relation}: {', '.join(ends) or 'no page'}; one page should be"


def can_be_searched(site: Path, book: dict[str, Page]) -> Iterator[str]:
    """Check that there is an index for the search, and that each page of the book is in it."""
    path = site / "searchindex.js"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if not text.startswith("Search.setIndex("):
        yield "searchindex.js is no index"
    for name in book:
        if not ALONE.fullmatch(name) and f'"{name.removesuffix(".html")}"' not in text:
            yield f"{name} cannot be found by a search"


RULES = lead_somewhere, have_words, load_nothing_from_elsewhere, lead_on, can_be_searched


def problems(site: Path) -> list[str]:
    """List everything that is wrong with a site, a line each."""
    site = site.resolve()
    book = pages(site)
    return [line for rule in RULES for line in rule(site, book)] if book else [f"{site}: no page in it"]


def outside(site: Path) -> list[str]:
    """List the addresses elsewhere that the pages link to."""
    return sorted({link for page in pages(site).values() for link in page.links if urlsplit(link).scheme})


if __name__ == "__main__":
    folder = Path(*sys.argv[1:2] or ["build/site"]).resolve()
    print(*outside(folder), sep="\n")
    print("(links to other hosts, whose form alone was checked)")
    wrong = problems(folder)
    print(*wrong, sep="\n")
    sys.exit(bool(wrong))
