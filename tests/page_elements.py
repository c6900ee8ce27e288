"""Reads a page of HTML strictly: its elements, texts and scripts."""

from html.parser import HTMLParser

VOID = {"meta", "img", "br", "hr", "input"}


class Elements(HTMLParser):
    """The elements of a page; an element that isn't closed in order is an error.

    Attributes:
        count: `{element: [attributes of each]}`.
        embedded: texts of the elements `style` and `script`, in order.
        texts: all other texts.
    """

    def __init__(self, text):
        super().__init__()
        self.open, self.count, self.embedded, self.texts = [], {}, [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names)
        self.count.setdefault(tag, []).append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        is_embedded = self.open and self.open[-1] in ("script", "style")
        (self.embedded if is_embedded else self.texts).append(data)

    @property
    def text(self):
        """All texts as one."""
        return " ".join(self.texts)
