"""Check the links of a built documentation that need no network: pages, files and anchors.

    python scripts/check_links.py docs/_build/html

Exits with 1 if a link leads nowhere.
"""

import argparse
import pathlib
import sys
import urllib.parse
from html.parser import HTMLParser


class _Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, path):
        super().__init__()
        self.links, self.anchors = [], {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        """Collect the attributes of a tag."""
        del tag
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.append(value)
            elif name in ("id", "name") and value:
                self.anchors.add(value)


def broken_links(folder):
    """Links between the files of a folder that lead nowhere.

    Args:
        folder: with .html files, at any depth.

    Returns:
        Lines `<page>: <link>`, sorted.
    """
    folder = pathlib.Path(folder).resolve()
    pages = {path: _Page(path) for path in folder.rglob("*.html")}
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            place = urllib.parse.unquote(parts.path)
            target = (path.parent / place).resolve() if place else path
            target = target / "index.html" if target.is_dir() else target
            found = target.exists() if target not in pages else None
            if found is None:
                found = urllib.parse.unquote(parts.fragment) in pages[target].anchors
            if not found:
                broken.append(f"{path.relative_to(folder)}: {link}")
    return sorted(set(broken))


def main():
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="the built documentation")
    folder = parser.parse_args().folder
    if not pathlib.Path(folder, "index.html").is_file():
        sys.exit(f"error: {folder} has no index.html; build the documentation first")
    broken = broken_links(folder)
    if broken:
        sys.exit("\n".join(["error: links that lead nowhere:", *broken]))


if __name__ == "__main__":
    main()
