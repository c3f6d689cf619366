"""Which ordinary captions a model is measured on when its user names none."""

from __future__ import annotations

from unmemorize._captions import ordinary_captions
from unmemorize.pipelines import Model

_FOR_THRESHOLDS = 500
_FOR_STATISTICS = 2000
_FOR_SIDE_EFFECTS = 1000


def threshold_captions(model: Model) -> tuple[str, ...]:
    """Return the captions of a threshold; none of them is in `statistics_captions`."""
    return _known_words_first(model)[:_FOR_THRESHOLDS]


def statistics_captions(model: Model) -> tuple[str, ...]:
    """Return the captions of statistics."""
    return _known_words_first(model)[_FOR_THRESHOLDS : _FOR_THRESHOLDS + _FOR_STATISTICS]


def side_effect_captions(model: Model) -> tuple[str, ...]:
    """Return the captions on which the side effects of an edit are measured.

    None of them is in the other two lists.
    """
    others = _FOR_THRESHOLDS + _FOR_STATISTICS
    return _known_words_first(model)[others : others + _FOR_SIDE_EFFECTS]


def _known_words_first(model: Model) -> tuple[str, ...]:
    """Order the captions by how few tokens their words take.

    A model has learned little about words that its tokenizer takes apart, so its response to them
    is not the one to ordinary text. The tokenizer of Stable Diffusion knows almost every word here
    and leaves the order as it is; one with a small vocabulary does not. Thresholds come first: a
    few odd captions move a high quantile far more than a mean.
    """
    captions = ordinary_captions()
    tokenizer = getattr(model.pipe, "tokenizer", None)
    if tokenizer is None:
        return captions
    pieces = {text: len(tokenizer.tokenize(text)) / len(text.split()) for text in captions}
    return tuple(sorted(captions, key=pieces.__getitem__))
