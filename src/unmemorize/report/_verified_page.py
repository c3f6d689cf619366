"""What the page of a mitigation says, compared with what follows from its records."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from typing import Any

from unmemorize.report._page import REPORT

_ON_CARDS = ("removed", "reduced", "not removed")
"""Statuses of the prompts that have a card."""


class Page(HTMLParser):
    """Numbers, title and headings of first rank, and the first label of each card.

    A number is its name, its exact value and what is shown. A label is its class and its words.
    """

    def __init__(self) -> None:
        super().__init__()
        self.figures: list[tuple[str, str, str]] = []
        self.headlines: list[str] = []
        self.labels: dict[str, tuple[str, str]] = {}
        self._open: dict[str, list[str]] = {}  # by tag: what is known of the element, then its text
        self._in_head = True
        self._card = ""

    @classmethod
    def of(cls, page: str) -> Page:
        """Read a page.

        Raises:
            ValueError: it is malformed.
        """
        parser = cls()
        try:
            parser.feed(page)
        except AssertionError as problem:  # what Python's parser raises at some declarations
            raise ValueError(f"{REPORT}: {problem}") from problem
        return parser

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "data":
            self._open[tag] = [values.get("data-of", ""), values.get("value", ""), ""]
        elif tag == "h1" or (tag == "title" and self._in_head):  # pictures have titles, too
            self._open[tag] = [""]
        elif tag == "article":
            self._card = values.get("id", "")
        elif tag == "span" and self._card and self._card not in self.labels:
            self._open[tag] = [values.get("class", ""), ""]

    def handle_data(self, data: str) -> None:
        for parts in self._open.values():
            parts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "head":
            self._in_head = False
        elif tag == "article":
            self._card = ""
        elif tag in self._open:
            *known, text = self._open.pop(tag)
            if tag == "data":
                self.figures.append((known[0], known[1], text))
            elif tag == "span":
                self.labels[self._card] = known[0], text
            else:
                self.headlines.append(text)


def wrong_words(page: Page, headline: str, computed: Mapping[str, Any]) -> Iterator[str]:
    """Say which sentences of a page do not follow from the records.

    Args:
        page: the page.
        headline: what the page must begin with.
        computed: numbers, statuses and verdicts by dotted names.
    """
    if page.headlines != [headline, headline]:
        yield f"headline and title are {page.headlines}, the records give {headline}"
    for name, verdict in computed.items():
        match = re.fullmatch(r"prompts\.(\d+)\.verdict", name)
        if match is None or computed[f"prompts.{match[1]}.status"] not in _ON_CARDS:
            continue
        removed = computed[f"prompts.{match[1]}.status"] == "removed"
        expected = ("tag good", f"✓ {verdict}") if removed else ("tag warn", f"✗ {verdict}")
        found = page.labels.get(f"prompt-{match[1]}")
        if found != expected:
            yield f"the label of prompt {match[1]} is {found}, the records give {expected}"
