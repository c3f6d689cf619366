"""Which training images of a folder belong to which prompts.

Names come first: a file belongs to the prompts that list it in their column ``images``, or whose
address it bears. `fetch_images` writes the address into the name. Only when no file has such a name
are numbers looked at, and only when they can mean one thing:

- A 0 among them, and none beyond the last index: they are indices of prompts.
- No 0, and the highest one is the number of prompts: they count prompts from 1.

Anything else is refused, because a wrong guess compares each prompt with its neighbour's image.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from unmemorize._errors import MetricError
from unmemorize._files import as_path
from unmemorize._paths import entries
from unmemorize._prompts import Prompt
from unmemorize._words import listed
from unmemorize.metrics._images import image_files, images_in

log = logging.getLogger(__name__)

_NUMBERED = re.compile(r"(?:[A-Za-z]+[_-]?)?(\d+)(?:[_.\-].*)?")
"""Names like ``0001_name``, ``12-x``, ``7`` and ``dl_000``, without their ending."""
_ONLY_NUMBER = re.compile(r"(?:[A-Za-z]+[_-]?)?\d+")
_FETCHED = re.compile(r"(\d+)_(.+?)(?:_([0-9a-f]{8}))?")
"""What `reference_name` returns, and what version 0.1 wrote, without a hash and counted from 1."""
_HASHED = 8
"""Digits of the hash of an address in a name."""
_LONGEST_SLUG = 40
_WAY_OUT = (
    "List each file in the column images of the prompt file, or fetch the images again: "
    "unmemorize fetch images PROMPTS -o FOLDER."
)


@dataclass(frozen=True, kw_only=True)
class MatchedReferences:
    """Training images by prompt.

    Args:
        images: by index of the prompt.
        unmatched: the images that belong to no prompt.
        by: what tells which prompt an image belongs to.
    """

    images: Mapping[int, tuple[Path, ...]]
    unmatched: tuple[Path, ...]
    by: str


def match_references(folder: str | Path, prompts: Sequence[Prompt]) -> MatchedReferences:
    """Find the prompts to which the images of a folder belong; a warning names images of none.

    Args:
        folder: images, or folders of images with the number of their prompt as their name.
        prompts: all prompts of a run.

    Raises:
        MetricError: it is no path, the folder holds no images, no name tells a prompt, or numbers
            are ambiguous.
    """
    folder = as_path(folder, MetricError, "folder of training images")
    in_subfolders = [path for inner in entries(folder) for path in images_in(inner)]
    flat = images_in(folder) if in_subfolders else image_files(folder)
    numbered_by = {path: path.parent.name for path in in_subfolders}
    numbered_by |= {path: path.stem for path in flat}

    names = _Names.of(prompts)
    candidates = {path: names.candidates(path) for path in numbered_by}
    if any(candidates.values()):
        found = _by_name(candidates, prompts)
        by = "name"
    else:
        found, by = _by_number(folder, numbered_by, len(prompts))
    images: dict[int, list[Path]] = defaultdict(list)
    for path in sorted(found):
        for index in sorted(found[path]):
            images[index].append(path)
    unmatched = tuple(path for path in sorted(numbered_by) if not found.get(path))
    if unmatched:
        first = listed([str(path.relative_to(folder)) for path in unmatched])
        log.warning("%s: %d images belong to no prompt: %s", folder, len(unmatched), first)
    return MatchedReferences(
        images={index: _distinct(paths) for index, paths in sorted(images.items())},
        unmatched=unmatched,
        by=by,
    )


def reference_name(index: int, url: str) -> str:
    """Return the name, without ending, under which the image of a prompt is kept.

    Examples:
        >>> reference_name(7, 'http://example.org/a%20cat.jpg?size=2')
        '0007_a-20cat_e20d0704'
    """
    return f"{index:04d}_{_slug(url)}_{_url_hash(url)}"


def _slug(url: str) -> str:
    stem = Path(_path_of(url)).stem
    return re.sub(r"[^A-Za-z0-9-]+", "-", stem)[:_LONGEST_SLUG].strip("-") or "image"


def _url_hash(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:_HASHED]


@dataclass(frozen=True)
class _Names:
    """What names of files say, each with the indices of the prompts.

    Args:
        listed: file names in the column ``images``.
        hashes: hashes of addresses.
        slugs: addresses as version 0.1 wrote them into names.
        addresses: the last part of addresses, with and without its ending.
    """

    listed: Mapping[str, set[int]]
    hashes: Mapping[str, set[int]]
    slugs: Mapping[str, set[int]]
    addresses: Mapping[str, set[int]]

    @classmethod
    def of(cls, prompts: Iterable[Prompt]) -> _Names:
        names = cls(*(defaultdict(set) for _ in range(4)))
        for index, prompt in enumerate(prompts):
            for image in prompt.images:
                names.listed[image.name].add(index)
            for url in prompt.urls:
                names.hashes[_url_hash(url)].add(index)
                names.slugs[_slug(url)].add(index)
                last = Path(unquote(_path_of(url)))
                for name in (last.name, last.stem):
                    if name and not _ONLY_NUMBER.fullmatch(last.stem):
                        names.addresses[name].add(index)
        return names

    def candidates(self, path: Path) -> set[int]:
        """Return the prompts that a file may belong to by its name."""
        if path.name in self.listed:
            return self.listed[path.name]
        fetched = _FETCHED.fullmatch(path.stem)
        if fetched and fetched[3] in self.hashes:
            return self.hashes[fetched[3]]
        if fetched and path.stem.partition("_")[2] in self.slugs:
            return self.slugs[path.stem.partition("_")[2]]
        return self.addresses.get(path.name) or self.addresses.get(path.stem) or set()


def _path_of(url: str) -> str:
    try:
        return urlsplit(url).path
    except ValueError:  # no address
        return ""


def _by_name(
    candidates: Mapping[Path, set[int]], prompts: Sequence[Prompt]
) -> dict[Path, set[int]]:
    """Choose among the candidates of each file, by its number where its name is not enough.

    Raises:
        MetricError: the name of a file may mean several prompts.
    """
    firsts = {
        number - index
        for path, indices in candidates.items()
        if len(indices) == 1 and (number := _number_of(path.stem)) is not None
        for index in indices
    }
    chosen: dict[Path, set[int]] = {}
    for path, indices in candidates.items():
        if len(indices) < 2 or _share_an_image(path, [prompts[index] for index in indices]):
            chosen[path] = indices
            continue
        number = _number_of(path.stem)
        positions = {number - first for first in firsts} if number is not None else set()
        if len(positions) != 1 or not positions <= indices:
            listed = ", ".join(map(str, sorted(indices)))
            raise MetricError(f"{path}: its name fits the prompts {listed} of the run. {_WAY_OUT}")
        chosen[path] = positions
    return chosen


def _share_an_image(path: Path, prompts: Sequence[Prompt]) -> bool:
    """Whether prompts list the same file, or have an address in common."""
    listed = all(path.name in [image.name for image in prompt.images] for prompt in prompts)
    return listed or bool(set.intersection(*(set(prompt.urls) for prompt in prompts)))


def _by_number(
    folder: Path, names: Mapping[Path, str], count: int
) -> tuple[dict[Path, set[int]], str]:
    """Take numbers in names for positions of prompts.

    Raises:
        MetricError: there are none, or they can mean several things.
    """
    numbers = {
        path: number for path, name in names.items() if (number := _number_of(name)) is not None
    }
    if not numbers:
        raise MetricError(
            f"{folder}: no name there tells which prompt an image belongs to. {_WAY_OUT}"
        )
    lowest, highest = min(numbers.values()), max(numbers.values())
    if highest > count or (lowest == 0 and highest == count):
        raise MetricError(
            f"{folder}: the numbers in its names reach from {lowest} to {highest}, but the run has "
            f"{count} prompts, so they belong to another list. {_WAY_OUT}"
        )
    if lowest > 0 and highest < count:
        raise MetricError(
            f"{folder}: the numbers in its names reach from {lowest} to {highest}, so they may "
            f"count the {count} prompts of the run from 0 or from 1. {_WAY_OUT}"
        )
    first = 0 if lowest == 0 else 1
    found = {path: {number - first} for path, number in numbers.items()}
    return found, f"number, counted from {first}"


def _number_of(name: str) -> int | None:
    match = _NUMBERED.fullmatch(name)
    return int(match[1]) if match else None


def _distinct(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Return files without copies of earlier ones, which would pass for a common layout."""
    if len(paths) < 2:
        return tuple(paths)
    by_content = {hashlib.sha256(path.read_bytes()).digest(): path for path in reversed(paths)}
    return tuple(sorted(by_content.values()))
