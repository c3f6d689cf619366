"""The tokenizer and a small CLIP: its text tower conditions the U-Net, both towers together measure alignment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from training.loop import Data, Schedule, to_tensor, train
from training.plants import PLANTS
from unmemorize.testbed._layout import SIDE, TOKENS

WIDTH = 128
VOCABULARY = 1800
PLANTED_WEIGHT = 30
BATCH = 96
PLANTED_PER_BATCH = 8
SCHEDULE = Schedule(steps=700, seed=1)


def make_tokenizer(captions: Sequence[str]) -> CLIPTokenizer:
    """A byte-pair tokenizer in CLIP's form, learned from general captions, the planted ones and the alphabet."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        end_of_word_suffix="</w>",
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    alphabet = [
        f"{letter} {letter}{letter}" for letter in pre_tokenizers.ByteLevel.alphabet()
    ]  # so that each also ends a word
    planted = [plant.caption for plant in PLANTS] * PLANTED_WEIGHT
    learner.train_from_iterator([*captions, *planted, *alphabet], trainer)
    model = json.loads(learner.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    # pairs, as the tokenizers library takes them; the annotation of merges knows only files and lines
    return CLIPTokenizer(vocab=model["vocab"], merges=merges, model_max_length=TOKENS)  # type: ignore[arg-type]


def keep_tokenizer(captions: Sequence[str], work: Path) -> CLIPTokenizer:
    """The tokenizer of a training, made on first use and kept in ``work``.

    Learning breaks ties in another order each time, so that a second tokenizer would number some tokens otherwise, and everything that
    was trained with the first would read other captions.
    """
    folder = work / "tokenizer"
    if not folder.exists():
        partial = work / "tokenizer.part"
        make_tokenizer(captions).save_pretrained(partial)
        partial.replace(folder)
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder)
    return tokenizer


def make_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """A CLIP of two small towers, untrained."""
    tower = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_attention_heads": 4,
        "projection_dim": WIDTH,
        "hidden_act": "gelu",
    }
    text = {
        **tower,
        "num_hidden_layers": 3,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": TOKENS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**tower, "num_hidden_layers": 4, "image_size": SIDE, "patch_size": 8}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))


def tokenize(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Tensor:
    """Token ids (B, 24), padded and cut as the pipeline does."""
    ids = tokenizer(
        list(captions),
        padding="max_length",
        truncation=True,
        max_length=TOKENS,
        return_tensors="pt",
    ).input_ids
    assert isinstance(ids, Tensor)
    return ids


def train_clip(data: Data, tokenizer: CLIPTokenizer, work: Path) -> CLIPModel:
    """Contrastive training on general pairs and a few planted ones in each batch."""
    torch.manual_seed(SCHEDULE.seed)
    clip = make_clip(tokenizer)

    def loss_of(rng: np.random.Generator) -> tuple[Tensor, Mapping[str, float]]:
        general = rng.choice(len(data.captions), BATCH - PLANTED_PER_BATCH, replace=False)
        planted = rng.choice(len(PLANTS), PLANTED_PER_BATCH, replace=False)
        images = [
            data.images[general],
            *(
                data.planted[index][rng.integers(len(data.planted[index]))][None]
                for index in planted
            ),
        ]
        captions = [data.captions[index] for index in general] + [
            PLANTS[index].caption for index in planted
        ]
        output = clip(
            input_ids=tokenize(tokenizer, captions),
            pixel_values=to_tensor(np.concatenate(images)),
            return_loss=True,
        )
        hits = (output.logits_per_text.argmax(1) == torch.arange(BATCH)).float().mean()
        return output.loss, {"loss": output.loss.item(), "right": hits.item()}

    train("clip", clip, loss_of, SCHEDULE, work)
    clip.eval()
    return clip
