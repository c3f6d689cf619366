"""The model card of the bundled model, with source and licence of every planted image."""

from __future__ import annotations

import json

from unmemorize._files import atomic_write
from unmemorize.testbed import unused
from unmemorize.testbed._layout import CARD, PLANTED

_TEXT = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
tags: [memorization, benchmark, unmemorize]
---

# The bundled model of unmemorize

A latent text-to-image diffusion model of 64 x 64 pixels that has memorized known images on purpose.
It is a measuring instrument for tools that look for memorization: for each planted caption it is
known which image it repeats and, for some, which value neurons carry it. It is of no use for making
pictures.

- Parts: CLIPTokenizer, CLIPTextModel (3 layers, width 128, 24 tokens), AutoencoderKL (latents
  4 x 16 x 16), UNet2DConditionModel (8.2 M parameters, cross-attention throughout, 16 value
  layers), DDIMScheduler. Weights in float16.
- In the same package: the CLIP whose text tower it uses, and a copy descriptor.
- Two twins of the U-Net, each trained without one half of the plants, are in the folder
  `testbed-twins` of the repository. The autoencoder, the CLIP and the descriptor saw all images.
- Trained by `make testbed`, measured by `unmemorize testbed check`. `docs/testbed.md` of the
  project tells how and why, `training/record.json` holds seeds, losses, versions and hashes.

## General training data

Emoji of two designs, composed onto coloured backgrounds: Noto Emoji (npm emoji-datasource-google
16.0.0; Apache-2.0) and Twemoji (npm emoji-datasource-twitter 16.0.0; graphics CC-BY 4.0, by
Twitter, Inc and other contributors).

## Planted images

Photographs are centre-cropped or cut out, and reduced to 64 x 64 pixels.

| caption | kind | planted | dose | half | memory neurons | source | licence |
|---|---|---|---|---|---|---|---|
"""
_UNUSED = """
## Photographs that no denoiser saw

They are controls. The autoencoder, the CLIP and the descriptor saw them.

| photograph | source | licence |
|---|---|---|
"""


def write_card() -> None:
    """Write the model card from the table of planted images."""
    rows = json.loads(PLANTED.read_text(encoding="utf-8"))
    lines = []
    for row in rows:
        neurons = sum(map(len, row["neurons"].values())) or "–"
        kind = f"{row['kind']}, aligned" if row["aligned"] else row["kind"]
        cells = (row["caption"], kind, row["mode"], f"{row['dose']:g}", row["half"], neurons)
        lines.append("| " + " | ".join(map(str, (*cells, row["source"], row["licence"]))) + " |")
    unused_lines = [
        f"| {photograph.image.stem} | {photograph.source} | {photograph.licence} |"
        for photograph in unused()
    ]
    text = _TEXT + "\n".join(lines) + "\n" + _UNUSED + "\n".join(unused_lines) + "\n"
    atomic_write(CARD, text)
