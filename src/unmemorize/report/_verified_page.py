"""What the page of a report says, compared with what follows from the records."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser

from unmemorize._words import listed
from unmemorize.report._page import REPORT
from unmemorize.report._recomputed_values import Recomputed


class Page(HTMLParser):
    """Numbers, title and headings of first rank, and the first label of each card.

    A number is its name, its exact value and what is shown. A label is its class and its words.
    """

    def __init__(self) -> None:
        super().__init__()
        self.figures: list[tuple[str, str, str]] = []
        self.headlines: list[str] = []
        self.labels: list[tuple[str, tuple[str, str] | None]] = []  # in the order of the cards
        self._open: dict[str, list[str]] = {}  # by tag: what is known of the element, then its text
        self._in_head = True
        self._in_card = False

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
            self._in_card = True
            self.labels.append((values.get("id", ""), None))
        elif tag == "span" and self._in_card and self.labels[-1][1] is None:
            self._open[tag] = [values.get("class", ""), ""]

    def handle_data(self, data: str) -> None:
        for parts in self._open.values():
            parts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "head":
            self._in_head = False
        elif tag == "article":
            self._in_card = False
        elif tag in self._open:
            *known, text = self._open.pop(tag)
            if tag == "data":
                self.figures.append((known[0], known[1], text))
            elif tag == "span":
                self.labels[-1] = self.labels[-1][0], (known[0], text)
            else:
                self.headlines.append(text)


def wrong_words(page: Page, recomputed: Recomputed) -> Iterator[str]:
    """Say which headlines and labels of a page do not follow from the records."""
    headline = recomputed.headline
    if page.headlines != [headline, headline]:
        yield f"headline and title are {page.headlines}, the records give {headline}"
    labels, cards = dict(page.labels), [card for card, _ in page.labels]
    for card, label in recomputed.labels.items():
        if labels.get(card) != label:
            found = labels.get(card)
            yield f"the label of {card.replace('-', ' ')} is {found}, the records give {label}"
    if len(cards) > len(labels) or not labels.keys() <= recomputed.labels.keys():
        yield f"the cards are {listed(cards)}, the records give {listed(list(recomputed.labels))}"
