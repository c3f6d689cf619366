"""Words of the report, explained where each is first used."""

from __future__ import annotations

from markupsafe import Markup

WORDS = {
    "memorized": (
        "The model draws a training image, or its layout, for this prompt. Here a prompt counts as "
        "memorized if at least 2 of its unedited images are copies."
    ),
    "suspect": "A prompt that was checked because it may be memorized.",
    "copy": (
        "An image whose score against the training image is above a level that at most a small, "
        "stated share of images of other prompts reaches."
    ),
    "edit": "The change of the model's weights that this report is about.",
    "fresh images": (
        "Images from initial noise that was not used while the edit was searched. Their number was "
        "fixed before the first one was drawn."
    ),
    "95 % interval": (
        "Exact (Clopper-Pearson), two-sided. A rate outside of it would give a count like this one "
        "in less than 5 % of cases."
    ),
    "ordinary prompts": ("Captions that are not memorized. They show what the edit costs."),
    "random neurons": (
        "A control: as many other neurons of the same layers, changed in the same way. If copies "
        "end there, too, the edit proves nothing about the neurons."
    ),
    "share of the training image": (
        "The pixels around which an image looks like the training image at the same place "
        "(structural similarity above .5 in a window of 11 pixels, both at most 128 pixels wide), "
        "of the image that shows most. Plain surfaces look alike by chance, so ordinary images "
        "stand beside it. It says how much is copied, not whether that matters in law."
    ),
    "paraphrase": (
        "Another wording of a memorized prompt, from the column of that name in the prompt file. "
        "No verdict is about it."
    ),
    "screen": (
        "A test of the first denoising steps, which decides what is generated. It is no proof."
    ),
    "false alarm": (
        "A suspect that the screen called, and of whose unedited images fewer than 2 are copies. "
        "A prompt that copies seldom may be one of them."
    ),
    "changed image": (
        "An image of an ordinary prompt whose descriptor similarity to the image before, from the "
        "same noise, is below 0.5."
    ),
    "alignment": "CLIP's cosine between an image and its prompt. Higher fits better.",
    "CLIP-FID": (
        "A distance between two sets of images by CLIP's features. It is compared with that of "
        "unedited images to others of the same model, which is not 0 either."
    ),
    "fingerprint": (
        "A hash of all weights that take part (denoiser, text encoders, VAE), of adapters in "
        "effect, and of the noise schedule."
    ),
    "VM": "Verbatim memorization: the whole image is memorized.",
    "TM": "Template memorization: the layout of an image is memorized, while colours vary.",
    "stage": (
        "The search tries edits on a few images each, and gives an edit up at a copy too many. A "
        "certificate tests one edit on fresh images. Where a copy ends it, the count draws the "
        "rest of them."
    ),
    "neuron": (
        "One output of a layer through which text reaches the image (a value projection of a "
        "cross-attention), named by layer and number."
    ),
}
"""Each word with its explanation, in the order of the glossary."""


class Glossary:
    """Links the first use of each word to its explanation."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def __contains__(self, word: str) -> bool:
        """Tell whether a word has an explanation."""
        return word in WORDS

    def __call__(self, word: str, shown: str = "") -> Markup:
        """Print a word.

        Args:
            word: as in `WORDS`.
            shown: another form of it, such as a plural.
        """
        text = shown or word
        if word in self._used:
            return Markup.escape(text)
        self._used.add(word)
        link = '<a class="term" href="#word-{}" title="{}">{}</a>'
        return Markup(link).format(anchor(word), WORDS[word], text)

    @property
    def entries(self) -> list[tuple[str, str, str]]:
        """Anchor, word and explanation of the words that were used."""
        return [(anchor(word), word, WORDS[word]) for word in WORDS if word in self._used]


def anchor(word: str) -> str:
    """Return a word as part of an id.

    Examples:
        >>> anchor("95 % interval")
        '95-interval'
    """
    return "-".join("".join(c if c.isalnum() else " " for c in word.lower()).split())
