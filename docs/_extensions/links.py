"""After the build, every link inside the site is followed: to its file, and to its anchor."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError


class Page(HTMLParser):
    """The anchors of a page, and where it links to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.links.append(value)


def follow(app: Sphinx, exception: Exception | None) -> None:
    """Raise an error that lists the links which lead nowhere."""
    if exception is not None or app.builder.format != "html":
        return
    root = Path(app.outdir).resolve()
    pages = {path: Page(path) for path in sorted(root.rglob("*.html"))}
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            missing = not target.exists()
            if missing or (parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors):
                broken.append(f"{path.relative_to(root)}: {link}")
    if broken:
        raise ExtensionError("These links lead nowhere:\n" + "\n".join(broken))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", follow)
    return {"parallel_read_safe": True}
