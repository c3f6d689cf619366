"""The one tokenizer of all parts: a byte-pair encoding, learned once and always the same.

Libraries break ties between equally frequent pairs by the order of a hash table, which differs from
run to run; this learner breaks them by the alphabet.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import torch
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import CLIPTokenizer

from training.concepts import COLOURS, NAMES
from training.plants import PLANTS
from unmemorize.testbed._layout import TOKENS

VOCABULARY = 4096
PLANTED_WEIGHT, PARAPHRASE_WEIGHT = 50, 10
"""How many general captions a planted caption or a paraphrase counts for."""
_WORD = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|[^\s\w]+")
_END = "</w>"

Pair = tuple[str, str]


def corpus(captions: Iterable[str]) -> Counter[str]:
    """Count the words of all captions; those of concepts and colours occur at least once."""
    words: Counter[str] = Counter()
    for caption in captions:
        words.update(_WORD.findall(caption.lower()))
    for text in (*NAMES, *COLOURS):
        words.update(_WORD.findall(text))
    for plant in PLANTS:
        for text, weight in (
            (plant.caption, PLANTED_WEIGHT),
            *((text, PARAPHRASE_WEIGHT) for text in plant.paraphrases),
        ):
            for word in _WORD.findall(text.lower()):
                words[word] += weight
    return words


def learn_merges(words: Mapping[str, int], limit: int) -> list[Pair]:
    """The merges of a byte-pair encoding, most frequent pair first, ties by the alphabet.

    Args:
        words: words with their frequency; only letters of one byte.
        limit: the largest number of merges; fewer suffice when every word is one token.
    """
    pieces = {word: [*word[:-1], word[-1] + _END] for word in words}
    counts: Counter[Pair] = Counter()
    holders: defaultdict[Pair, set[str]] = defaultdict(set)
    for word, parts in pieces.items():
        for pair in pairwise(parts):
            counts[pair] += words[word]
            holders[pair].add(word)
    merges: list[Pair] = []
    while len(merges) < limit and counts:
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        for word in sorted(holders[best]):
            parts = pieces[word]
            for pair in pairwise(parts):
                counts[pair] -= words[word]
                if counts[pair] <= 0:
                    del counts[pair]
                holders[pair].discard(word)
            pieces[word] = parts = _merge(parts, best)
            for pair in pairwise(parts):
                counts[pair] += words[word]
                holders[pair].add(word)
    return merges


def make_tokenizer(captions: Iterable[str]) -> CLIPTokenizer:
    """The tokenizer of the general captions, the planted ones and their paraphrases."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = [*alphabet, *(letter + _END for letter in alphabet)]
    merges = learn_merges(corpus(captions), VOCABULARY - len(letters) - 2)
    entries = [
        *letters,
        *(left + right for left, right in merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(entries))}
    # pairs, as the tokenizers library takes them; the annotation knows only lines of text
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS)  # type: ignore[arg-type]


def tokenize(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Tensor:
    """Token ids (B, 24), padded and cut as the pipeline does."""
    ids = tokenizer(
        list(captions),
        padding="max_length",
        truncation=True,
        max_length=TOKENS,
        return_tensors="pt",
    ).input_ids
    assert isinstance(ids, torch.Tensor)
    return ids


def _merge(parts: Sequence[str], pair: Pair) -> list[str]:
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged
