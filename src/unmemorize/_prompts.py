"""Prompts, and what is known about them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Literal

from unmemorize._errors import PromptError
from unmemorize._files import type_in_words
from unmemorize._words import listed

_logger = logging.getLogger("unmemorize")

Kind = Literal["VM", "TM"]

UNMEMORIZED = "unmemorized"
"""The group of prompts that are known not to be memorized."""
ALL_GROUPS = "all"
"""All suspects together in a comparison. No group has this name."""
OVERALL = "overall"
"""The column of all prompts of interest in a summary. No group and no label has this name."""


@dataclass(frozen=True)
class Prompt:
    """One prompt, with what is known about it.

    Args:
        text: the caption.
        kind: "VM" (the whole image is a copy), "TM" (its layout is) or None (unknown or not
            memorized).
        url: where the training image was found.
        images: the training image or images, for comparison with what is generated.
        group: the name under which results are summarized; by default the kind or "unlabelled". Not
            "all" or "overall", which name all prompts together.
        more_urls: where else it or other training images were found.
        paraphrases: other wordings, which tell whether an edit holds beside the caption itself.

    Raises:
        PromptError: the text is empty, a value is of another type, the group has a reserved name or
            contradicts the kind, or a text is no UTF-8.
    """

    text: str
    kind: Kind | None = None
    url: str | None = None
    images: tuple[Path, ...] = ()
    group: str = ""
    more_urls: tuple[str, ...] = ()
    paraphrases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise PromptError(
                f"{self.text!r:.60}: not the text of a prompt. Give a text, not "
                f"{type_in_words(self.text)}."
            )
        if not self.text.strip():
            raise PromptError("an empty prompt. Leave it out, or write its caption.")
        if self.kind not in ("VM", "TM", None):
            raise self._error("its kind", self.kind, "Use VM, TM or nothing.")
        if self.url is not None and not isinstance(self.url, str):
            raise self._error("its url", self.url, "Give a text or nothing.")
        if not isinstance(self.group, str):
            raise self._error("its group", self.group, "Give a text.")
        if self.group in (ALL_GROUPS, OVERALL):
            way_out = (
                "Tables use this name for all prompts together. Rename it; in a prompt file it is "
                "in the column group."
            )
            raise self._error("its group", self.group, way_out)
        if self.group == UNMEMORIZED and self.kind:
            way_out = (
                "So it is memorized, but its group (or the option --unmemorized) says that it is "
                "not. Change one of the two."
            )
            raise self._error("its kind", self.kind, way_out)
        if not _is_sequence_of(self.images, (str, PurePath)):
            raise self._error("images", self.images, "Give a list of paths.")
        if not _is_sequence_of(self.more_urls, str):
            raise self._error("more_urls", self.more_urls, "Give a list of texts.")
        if not _is_sequence_of(self.paraphrases, str) or not all(map(str.strip, self.paraphrases)):
            raise self._error("paraphrases", self.paraphrases, "Give a list of texts.")
        object.__setattr__(self, "images", tuple(map(Path, self.images)))
        object.__setattr__(self, "more_urls", tuple(self.more_urls))
        object.__setattr__(self, "paraphrases", tuple(self.paraphrases))
        if not self.group:
            object.__setattr__(self, "group", self.kind or "unlabelled")
        self._refuse_half_characters()

    def _refuse_half_characters(self) -> None:
        """Refuse texts and names of files that no record can hold."""
        for text in (self.text, self.group, *self.urls, *self.paraphrases, *map(str, self.images)):
            try:
                text.encode()
            except UnicodeEncodeError as problem:
                raise PromptError(
                    f"prompt {self.text[:60]!r}: {text!r:.60} holds half of a character. "
                    "Write it in UTF-8; rename the file if it is the name of one."
                ) from problem

    def _error(self, field: str, value: object, way_out: str) -> PromptError:
        return PromptError(f"prompt {self.text[:60]!r}: {field} is {value!r:.60}. {way_out}")

    @property
    def wordings(self) -> tuple[str, ...]:
        """The caption and its paraphrases."""
        return (self.text, *self.paraphrases)

    @property
    def urls(self) -> tuple[str, ...]:
        """All addresses of training images."""
        return ((self.url,) if self.url else ()) + self.more_urls

    @property
    def memorized(self) -> bool | None:
        """True for VM and TM, False in the group "unmemorized", None where it is not known."""
        return True if self.kind else False if self.group == UNMEMORIZED else None


def as_prompt(prompt: str | Prompt) -> Prompt:
    """Turn a text into a prompt about which nothing is known; a prompt stays itself.

    Raises:
        PromptError: it is neither.
    """
    if isinstance(prompt, Prompt):
        return prompt
    if not isinstance(prompt, str):
        raise PromptError(
            f"{prompt!r:.60}: not a prompt. Give a text or a Prompt, not {type_in_words(prompt)}."
        )
    return Prompt(prompt)


def as_prompts(prompts: Iterable[str | Prompt]) -> list[Prompt]:
    """Turn texts or prompts into a list of prompts, see `iter_as_prompts`."""
    return list(iter_as_prompts(prompts))


def iter_as_prompts(prompts: Iterable[str | Prompt]) -> Iterator[Prompt]:
    """Turn texts or prompts into a stream of prompts, which may be larger than memory.

    Raises:
        PromptError: at once, if ``prompts`` is a single text or prompt, a path, a dictionary, or
            not iterable; later, with its index, if one of the prompts is not a prompt or is empty.

    Examples:
        >>> list(iter_as_prompts("a red cat"))
        Traceback (most recent call last):
        unmemorize.PromptError: 'a red cat': a single prompt. Give a list: ['a red cat'].
    """
    if isinstance(prompts, (str, Prompt)):
        text = prompts if isinstance(prompts, str) else prompts.text
        raise PromptError(f"{text[:60]!r}: a single prompt. Give a list: [{text[:60]!r}].")
    if isinstance(prompts, PurePath):
        raise PromptError(f"{prompts}: a path, not prompts. Read it first: read_prompts(PATH).")
    if not isinstance(prompts, Iterable) or isinstance(prompts, (Mapping, bytes, bytearray)):
        raise PromptError(
            f"{prompts!r:.60}: not prompts. Give a list of texts, not {type_in_words(prompts)}."
        )
    return _each_as_prompt(prompts)


def iter_ordinary(prompts: Iterable[str | Prompt]) -> Iterator[Prompt]:
    """Turn texts or prompts that should not be memorized into a stream, see `iter_as_prompts`.

    Raises:
        PromptError: later, if the prompt file says that one of them is memorized.
    """
    return map(_not_memorized, iter_as_prompts(prompts))


def as_ordinary(prompts: Iterable[str | Prompt]) -> list[Prompt]:
    """Turn texts or prompts that should not be memorized into a list, each text once.

    A level over repeated texts would promise a rate that it cannot keep.

    Raises:
        PromptError: as `iter_ordinary`.

    Examples:
        >>> [prompt.text for prompt in as_ordinary(["a cat", "a dog", "a cat"])]
        ['a cat', 'a dog']
    """
    given = list(iter_ordinary(prompts))
    distinct: dict[str, Prompt] = {}
    for prompt in given:
        distinct.setdefault(prompt.text, prompt)
    if len(distinct) < len(given):
        _logger.warning(
            "%d of %d ordinary prompts repeat others. Each text counts once.",
            len(given) - len(distinct),
            len(given),
        )
    return list(distinct.values())


def as_suspects(prompts: Iterable[str | Prompt]) -> list[Prompt]:
    """Turn texts or prompts that may be memorized into a list, each text once.

    Seeds follow from the text, so two suspects of one text draw the same images. Counting these
    twice would make intervals too narrow. A suspect gets the training images, addresses and
    paraphrases of all that have its text, and what else is known about the first of them. A warning
    names those that were merged.

    Raises:
        PromptError: as `as_prompts`.

    Examples:
        >>> two = [Prompt("a cat", images=("1.png",)), Prompt("a cat", images=("2.png",))]
        >>> [len(prompt.images) for prompt in as_suspects(two)]
        [2]
    """
    of_text: dict[str, list[Prompt]] = {}
    for prompt in iter_as_prompts(prompts):
        of_text.setdefault(prompt.text, []).append(prompt)
    merged = [same for same in of_text.values() if len(same) > 1]
    if merged:
        _logger.warning(
            "Suspects of the same text count once, with the training images and paraphrases of all "
            "of them: %s",
            listed([_named_together(same) for same in merged]),
        )
    return [same[0] if len(same) == 1 else _merged(same) for same in of_text.values()]


def no_wordings(captions: Iterable[str], prompts: Iterable[Prompt]) -> tuple[str, ...]:
    """Return the captions that an edit which takes out the prompts can leave alone.

    Returns:
        Those that are no wording of a prompt, in their order.
    """
    taken_out = {text for prompt in prompts for text in prompt.wordings}
    return tuple(caption for caption in captions if caption not in taken_out)


def repeated_text(prompts: Iterable[Prompt]) -> str | None:
    """Return a text that several prompts have, or None."""
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.text in seen:
            return prompt.text
        seen.add(prompt.text)
    return None


def _merged(same: Sequence[Prompt]) -> Prompt:
    """Join prompts of one text."""
    urls = tuple(dict.fromkeys(url for prompt in same for url in prompt.urls))
    return replace(
        same[0],
        url=urls[0] if urls else None,
        more_urls=urls[1:],
        images=tuple(dict.fromkeys(path for prompt in same for path in prompt.images)),
        paraphrases=tuple(dict.fromkeys(text for prompt in same for text in prompt.paraphrases)),
    )


def _named_together(same: Sequence[Prompt]) -> str:
    """Name prompts of one text, how many they are, and which group they get if several differ."""
    groups = list(dict.fromkeys(prompt.group for prompt in same))
    group = f", group {groups[0]} and not {', '.join(groups[1:])}" if len(groups) > 1 else ""
    return f"{same[0].text[:60]!r} ({len(same)} times{group})"


def _not_memorized(prompt: Prompt) -> Prompt:
    if prompt.memorized:
        raise PromptError(
            f"prompt {prompt.text[:60]!r} is memorized ({prompt.kind}), where ordinary ones are "
            "needed. Leave it out, or clear its kind."
        )
    return prompt


def _each_as_prompt(prompts: Iterable[str | Prompt]) -> Iterator[Prompt]:
    for index, prompt in enumerate(prompts):
        try:
            yield as_prompt(prompt)
        except PromptError as problem:
            raise PromptError(f"prompt {index}: {problem}") from problem


def _is_sequence_of(values: object, types: type | tuple[type, ...]) -> bool:
    return isinstance(values, (list, tuple)) and all(isinstance(value, types) for value in values)
