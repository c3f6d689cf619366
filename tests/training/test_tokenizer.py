from collections import Counter

import pytest

from training.concepts import COLOURS, NAMES
from training.data import make_grammar
from training.plants import PLANTS
from training.tokenizer import corpus, learn_merges, make_tokenizer, tokenize


def naive_merges(words: dict[str, int], limit: int) -> list[tuple[str, str]]:
    """The definition of byte-pair encoding, with all pairs counted again at each step."""
    pieces = {word: [*word[:-1], f"{word[-1]}</w>"] for word in words}
    merges = []
    for _ in range(limit):
        counts: Counter[tuple[str, str]] = Counter()
        for word, parts in pieces.items():
            for index in range(len(parts) - 1):
                counts[parts[index], parts[index + 1]] += words[word]
        if not counts:
            break
        best = sorted(counts, key=lambda pair: (-counts[pair], pair))[0]
        merges.append(best)
        for word, parts in pieces.items():
            text = "\0".join(("", *parts, ""))
            while f"\0{best[0]}\0{best[1]}\0" in text:
                text = text.replace(f"\0{best[0]}\0{best[1]}\0", f"\0{''.join(best)}\0", 1)
            pieces[word] = text.strip("\0").split("\0")
    return merges


WORDS = {"banana": 4, "bandana": 3, "ananas": 3, "aaaa": 2, "an": 5, "nan": 1, "a": 9, "ban": 3}


@pytest.mark.parametrize("limit", [1, 5, 12, 100])
def test_merges_are_those_of_the_definition(limit: int) -> None:
    assert learn_merges(WORDS, limit) == naive_merges(WORDS, limit)


def test_ties_do_not_depend_on_the_order_of_words() -> None:
    backwards = dict(reversed(WORDS.items()))
    assert learn_merges(backwards, 100) == learn_merges(WORDS, 100)


def test_every_known_word_is_one_token() -> None:
    captions = make_grammar().held_out("test")
    tokenizer = make_tokenizer(captions)
    assert all(len(tokenizer.tokenize(word)) == 1 for word in corpus(captions))
    texts = [text for plant in PLANTS for text in (plant.caption, *plant.paraphrases)]
    assert max(len(tokenizer(text).input_ids) for text in (*texts, *captions)) <= 24
    assert all(tokenizer.unk_token not in tokenizer.tokenize(text) for text in (*NAMES, *COLOURS))
    assert make_tokenizer(captions).get_vocab() == tokenizer.get_vocab()
    padded = tokenize(tokenizer, ["an owl", ""])
    assert padded.shape == (2, 24)
    assert tokenizer.decode(padded[0], skip_special_tokens=True) == "an owl"


def test_unknown_words_fall_apart_into_letters() -> None:
    tokenizer = make_tokenizer(["an owl"])
    assert tokenizer.decode(tokenizer("zyx QUARK").input_ids, skip_special_tokens=True) == (
        "zyx quark"
    )
