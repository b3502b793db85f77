"""A page as the tests ask about it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Checks that tags are balanced and collects what the tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.by_id: dict[str, list[str]] = {}
        self._inside: list[str | None] = []
        self._cells: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append((tag, found))
        if "id" in found:
            assert found["id"] not in self.by_id, f"id {found['id']} twice"
            self.by_id[found["id"]] = []
        if tag not in VOID:
            self.open.append(tag)
            self._inside.append(found.get("id"))
        if tag == "td":
            for identity in filter(None, self._inside):
                self._cells.setdefault(identity, []).append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        for identity in self._inside:
            if identity:
                self.by_id[identity].append(f"<{tag}>")

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag
        self._inside.pop()

    def handle_data(self, data):
        self.words.append(data)
        for identity in self._inside:
            if identity:
                self.by_id[identity].append(data)
        if "td" in self.open:
            for identity in filter(None, self._inside):
                self._cells[identity][-1] += data

    def cells(self, identity: str) -> list[str]:
        """The cells of the bodies of the tables within an element."""
        return [cell.strip() for cell in self._cells[identity]]

    def text(self, identity: str | None = None) -> str:
        return re.sub(r"\s+", " ", "".join(self.words if identity is None else self.by_id[identity]))
