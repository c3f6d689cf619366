"""The memorized prompts of a mitigation in pictures, those that are not certified first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from PIL import Image

from unmemorize.localization import Localization, difference_file
from unmemorize.metrics import read_image, read_references, reproduced_mask
from unmemorize.mitigation import Measure, PromptOutcome
from unmemorize.report._course import draw_course
from unmemorize.report._drawing import short_layer
from unmemorize.report._evidence import Evidence, Tried
from unmemorize.report._pictures import Pictures, with_pixels
from unmemorize.report._redaction import shown_after
from unmemorize.report._regions import region_file
from unmemorize.runs import unchanged_images

MOST_LARGE = 60
"""Memorized prompts with large pictures. With small ones a page of 500 stays below 50 MB."""
_LARGE = (Pictures(256, 85, 4), Pictures(96, 75, 24))
_SMALL = (Pictures(128, 75, 2), Pictures(64, 60, 12))
NO_CONTROL = "no control for this kind of edit"
"""Said of a prompt of which no neurons were edited: random ones would show nothing about it."""
_NOT_THAT = "none that the run compared with is there"
"""Said of a prompt whose training images were moved, replaced, or put there later."""
MEASURES: Mapping[Measure, str] = {
    "image": "descriptor similarity of the whole image to a training image",
    "layout": "correlation with a training image over the pixels of the layout",
    "agreement": "descriptor similarity to the most typical unedited image",
}


@dataclass(frozen=True)
class Picture:
    """An image on the page.

    Args:
        url: its data URL.
        says: what it is, for people who do not see it.
        score: how much it copies; None where that is not known.
        is_copy: whether the score is above the level.
        file: the full image, relative to the run folder; empty where it is not there.
    """

    url: str
    says: str
    score: float | None = None
    is_copy: bool = False
    file: str = ""


@dataclass(frozen=True)
class Strip:
    """Images of one kind.

    Args:
        title: the kind.
        pictures: the images, the one that shows most first.
        without: why there are none, where that is not plain.
    """

    title: str
    pictures: tuple[Picture, ...]
    without: str = ""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One memorized prompt.

    Args:
        outcome: its verdict.
        measure: what tells its copies, in words.
        note: why the verdict and the pictures seem to disagree; empty where they do not.
        front: the pictures that show the verdict, with titles.
        strips: all of its pictures.
        shown_again: its training image with the pixels that images before and after show again.
        differences: what the first denoising step removes; None without a picture of it.
        region: where the prompt is memorized; None without a map.
        course: the trials of its localization, see `draw_course`.
        layers: its neurons by layer.
        tried: what each edit did to it.
        references: SHA-256 of its training images.
    """

    outcome: PromptOutcome
    measure: str
    note: str
    front: tuple[Strip, ...]
    strips: tuple[Strip, ...]
    shown_again: tuple[Picture, ...]
    differences: Picture | None
    region: Picture | None
    course: Markup | None
    layers: tuple[tuple[str, tuple[int, ...]], ...]
    tried: tuple[Tried, ...]
    references: tuple[str, ...]


def wall(evidence: Evidence, *, redact: bool) -> Iterator[Entry]:
    """Yield the memorized prompts: those that are not certified, then those with copies left.

    Args:
        evidence: a finished mitigation.
        redact: whether training images are private.

    Raises:
        MetricError: an image is missing or damaged.
    """
    confirmed = sorted(evidence.confirmed, key=_worst_first)
    front, small = _LARGE if len(confirmed) <= MOST_LARGE else _SMALL
    for outcome in confirmed:
        localization = evidence.localizations.get(outcome.index)
        kinds = _Kinds(evidence, outcome, redact)
        yield Entry(
            outcome=outcome,
            measure=MEASURES[outcome.measure or "image"],
            note=_note(outcome),
            front=tuple(kinds.strips(front, 1)),
            strips=tuple(kinds.strips(small, small.most)),
            shown_again=tuple(kinds.shown_again(front)),
            differences=None if redact else _differences(evidence, outcome.index, front),
            region=None if redact else _region(evidence, outcome.index, front),
            course=draw_course(localization) if localization else None,
            layers=tuple(_layers(localization)),
            tried=evidence.tried.get(outcome.index, ()),
            references=tuple(image.sha256 for image in evidence.references[outcome.index]),
        )


def _note(outcome: PromptOutcome) -> str:
    """Explain a verdict by fresh images beside pictures that show another."""
    if outcome.level is None or outcome.worst_after is None or outcome.after is None:
        return ""
    shows_copy = outcome.worst_after > outcome.level
    if outcome.fresh_share and not outcome.after.copies:
        return (
            "A copy was among the first fresh images. The verdict counts those of a later attempt, "
            "at the confidence that was fixed for it beforehand."
        )
    if shows_copy and not outcome.after.copies:
        return (
            "The verdict counts fresh images, none of which is a copy. An image from the noise of "
            "“before” still counts as one."
        )
    if outcome.after.copies and not shows_copy:
        return (
            "The copies that are left are among the fresh images. No image from the noise of "
            "“before” is a copy."
        )
    return ""


def _worst_first(outcome: PromptOutcome) -> tuple[int, float, float, float]:
    """Order by verdict, copies among fresh images, those of the worst paraphrase, and score."""
    order = ("not removed", "reduced", "removed")
    worst = -1.0 if outcome.worst_after is None else outcome.worst_after
    return (
        order.index(outcome.status),
        -outcome.fresh_share,
        -max((each.share for each in outcome.copying_paraphrases), default=0.0),
        -worst,
    )


@dataclass(frozen=True)
class _Kinds:
    """The pictures of one memorized prompt."""

    evidence: Evidence
    outcome: PromptOutcome
    redact: bool

    def strips(self, pictures: Pictures, most: int) -> Iterator[Strip]:
        """Yield its kinds of images, with the first so many of each; none of what is private."""
        outcome = self.outcome
        seeds = self._order()
        public = [] if self.redact else seeds
        before = self.evidence.confirmations[outcome.index].scores
        after = shown_after(outcome, redact=self.redact)
        kept = [seed for seed in seeds if seed in after]
        training = () if self.redact else tuple(self._training(pictures, most))
        named = self.evidence.references[outcome.index] and not self.redact
        yield Strip("training image", training, _NOT_THAT if named else "")
        yield self._strip("before", outcome.files_before, before, public, pictures, most)
        yield self._strip("after", outcome.files_after, outcome.scores_after, kept, pictures, most)
        if outcome.files_left and not self.redact:
            every = range(len(outcome.files_left))
            yield self._strip(
                "after, fresh noise", outcome.files_left, outcome.scores_left, every, pictures, most
            )
        copying = [each for each in outcome.copying_paraphrases if each.files_left]
        for paraphrase in () if self.redact else copying[:most]:
            files, scores = paraphrase.files_left, paraphrase.scores_left
            title = "after, other wording" + (f": {paraphrase.text}" if most > 1 else "")
            yield self._strip(title, files, scores, range(len(files)), pictures, most)
        if outcome.files_control:
            scores = outcome.scores_control
            worst = sorted(range(len(scores)), key=lambda seed: -scores[seed])
            shown = [] if self.redact else worst
            yield self._strip(
                "random neurons", outcome.files_control, scores, shown, pictures, most
            )
        elif self.evidence.result.controls.seeds:
            yield Strip("random neurons", (), NO_CONTROL)

    def shown_again(self, pictures: Pictures) -> Iterator[Picture]:
        """Yield what the image before that shows most of a training image shows, then after.

        The other pixels of the training image are pale. A page of small pictures has none of these.
        """
        shares = self.evidence.reproduced.get(self.outcome.index)
        training = self._training_images()
        if self.redact or shares is None or not training or pictures.side < _LARGE[0].side:
            return
        for state, files, values in (
            ("before", self.outcome.files_before, shares.before),
            ("after", self.outcome.files_after, shares.after),
        ):
            if values:
                image = read_image(self.evidence.run.folder / files[values.index(max(values))])
                masks = [reproduced_mask(image, each) for each in training]
                most = max(range(len(masks)), key=lambda number: masks[number].mean())
                url = pictures.url(with_pixels(training[most], masks[most]))
                says = f"what an image {state} shows again of the training image, the rest is pale"
                yield Picture(url, says)

    def _order(self) -> list[int]:
        """Order seeds: first those under which a copy is left, then those that copied most."""
        outcome = self.outcome
        level = outcome.level if outcome.level is not None else 1.0
        before = self.evidence.confirmations[outcome.index].scores

        def shows_most(seed: int) -> tuple[float, float]:
            after = outcome.scores_after[seed] if outcome.scores_after else -1.0
            return (-after if after > level else 0.0), -before[seed]

        return sorted(range(len(outcome.files_before)), key=shows_most)

    def _strip(
        self,
        title: str,
        files: Sequence[str],
        scores: Sequence[float],
        seeds: Sequence[int],
        pictures: Pictures,
        most: int,
    ) -> Strip:
        shown = []
        for seed in seeds[:most]:
            is_copy = self.outcome.level is not None and scores[seed] > self.outcome.level
            image = read_image(self.evidence.run.folder / files[seed])
            says = f"{title}, noise {seed + 1}: {'a copy' if is_copy else 'no copy'}"
            shown.append(Picture(pictures.url(image), says, scores[seed], is_copy, files[seed]))
        return Strip(title, tuple(shown))

    def _training(self, pictures: Pictures, most: int) -> Iterator[Picture]:
        for image in self._training_images()[:most]:
            yield Picture(pictures.url(image), f"training image of: {self.outcome.prompt}")

    def _training_images(self) -> Sequence[Image.Image]:
        """Read the training images that the run compares with."""
        references = self.evidence.references[self.outcome.index]
        return read_references(unchanged_images(references, self.evidence.run.folder)).images


def _differences(evidence: Evidence, index: int, pictures: Pictures) -> Picture | None:
    says = "what the first step removes: all neurons on above, the found neurons off below"
    return _kept(evidence, difference_file(index), says, pictures)


def _region(evidence: Evidence, index: int, pictures: Pictures) -> Picture | None:
    says = "where the text changes the image most at the last step, bright for much"
    return _kept(evidence, region_file(index), says, pictures)


def _kept(evidence: Evidence, name: str, says: str, pictures: Pictures) -> Picture | None:
    """Return a picture that the run keeps; None where it does not."""
    path: Path = evidence.run.folder / name
    return Picture(pictures.url(read_image(path)), says, file=name) if path.is_file() else None


def _layers(localization: Localization | None) -> Iterator[tuple[str, tuple[int, ...]]]:
    if localization is not None:
        for path, neurons in localization.neurons.layers.items():
            yield short_layer(path), tuple(neurons)
