"""Localization by the package against the published procedure, on the bundled model and on a full-size U-Net: what each stage costs.

python benchmarks/localization.py [--prompts N] [--criterion seeds|unblocked] [--full-size] [--json FILE]

Prints medians over memorized prompts, of denoiser samples (one initial noise through one denoiser forward; "weighted" by the share of the
forward's multiply-adds that ran) and of seconds, and as its last line the ratios published / ours.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics as stats
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import unmemorize as um
from published import PublishedLocalization
from unmemorize._value_layers import select_value_layers
from unmemorize.localization import Criterion, RefinementMethod, detect_prompts

METHODS: tuple[RefinementMethod, ...] = ("greedy", "bisect")


def main(prompts: int, criterion: Criterion | None, full_size: bool, output: Path | None) -> None:
    rows = bundled(prompts, criterion or um.testbed.defaults()["criterion"])
    detected = detection()
    show(rows)
    report: dict[str, Any] = {"bundled": rows, "detection": detected}
    if full_size:
        report["full size"] = full_size_rows()
        show(report["full size"])
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2:.2f} GiB")
    if output is not None:
        output.write_text(json.dumps(report, indent=1), encoding="utf-8")
    equal = stats.mean(row["greedy"]["equal"] for row in rows)
    ratios = " ".join(f"{method}={ratio(rows, method):.1f}" for method in METHODS)
    print(f"ratios {ratios} detect={detected['published'] / detected['ours']:.1f} greedy_equal={equal:.3f}")


def bundled(count: int, criterion: Criterion) -> list[dict[str, Any]]:
    pipe = um.load_pipeline("testbed", device="cpu")
    statistics, threshold = um.Statistics.load(um.testbed.statistics_path()), um.Threshold.load(um.testbed.threshold_path())
    settings = um.LocalizationSettings(noise=threshold.settings, criterion=criterion)
    entries = [entry for entry in um.testbed.planted() if entry.mode != "rare"]
    um.localize(pipe, entries[0].prompt, statistics=statistics, threshold=threshold, settings=settings)  # warm
    rows: list[dict[str, Any]] = []
    for entry in entries:
        if len(rows) < count:
            row = compare(pipe, entry.prompt, statistics, threshold, settings)
            if row is not None:
                rows.append({**row, "kind": entry.prompt.kind, "mode": entry.mode})
    return rows


def compare(
    pipe: StableDiffusionPipeline, prompt: um.Prompt, statistics: um.Statistics, threshold: um.Threshold, settings: um.LocalizationSettings
) -> dict[str, Any] | None:
    """One prompt by all three; None when it is not memorized."""
    model = um.Model(pipe)
    published = PublishedLocalization(model, statistics, threshold, settings, list(select_value_layers(model.value_layers)))
    reference = published.localize(prompt.text)
    if not reference.memorized:
        return None
    row: dict[str, Any] = {
        "prompt": prompt.text,
        "candidates": reference.candidates,
        "published": {
            "samples": sum(reference.evaluations.values()),
            "weighted": float(sum(reference.evaluations.values())),
            "seconds": sum(reference.seconds.values()),
            "neurons": len(reference.neurons),
            "score": reference.score,
            **{f"{stage} samples": float(spent) for stage, spent in reference.evaluations.items()},
        },
    }
    for method in METHODS:
        began = time.perf_counter()
        chosen = replace(settings, refinement=method)
        found = um.localize(pipe, prompt, statistics=statistics, threshold=threshold, settings=chosen)
        row[method] = {
            "samples": found.evaluations,
            "weighted": found.work,
            "seconds": time.perf_counter() - began,
            "neurons": len(found.neurons),
            "score": found.score,
            "equal": found.neurons == reference.neurons,
            "jaccard": len(found.neurons & reference.neurons) / max(1, len(found.neurons | reference.neurons)),
            "minimal": found.minimal,
            "recorded MiB": found.recorded_bytes / 1024**2,
            **{f"{stage} samples": spent for stage, spent in found.spent.items()},
        }
    return row


def detection() -> dict[str, float]:
    """Samples per prompt of the published pass and of ours, and how often a cascade changes the verdict."""
    pipe = um.load_pipeline("testbed", device="cpu")
    model, threshold = um.Model(pipe), um.Threshold.load(um.testbed.threshold_path())
    prompts = [entry.prompt for entry in um.testbed.planted()] + [um.Prompt(text) for text in um.testbed.captions("test")]
    whole, early = (detect_prompts(model, prompts, threshold, threshold.settings, cascade=cascade) for cascade in (False, True))
    differing = sum(one.memorized != other.memorized for one, other in zip(whole, early, strict=True))
    samples, earlier = (stats.mean(found.evaluations for found in some) for some in (whole, early))
    faster = sum(found.seconds for found in whole) / sum(found.seconds for found in early)
    print(f"detection of {len(prompts)} prompts: {samples:.1f} samples with all seeds, {earlier:.1f} as a cascade, {faster:.1f} x faster")
    print(f"{differing} verdicts differ ({differing / len(prompts):.2%})")
    return {"published": 2 * samples, "all seeds": samples, "ours": earlier, "differing": differing, "prompts": len(prompts)}


def full_size_rows() -> list[dict[str, Any]]:
    """Stable Diffusion 1.4's U-Net with random weights: costs only, so two seeds, few candidates, and a threshold that all seeds pass."""
    pipe = full_size_pipeline()
    texts = [f"{word} {number}" for word in ("a", "b", "c") for number in range(6)]
    statistics = um.compute_statistics(pipe, texts)
    settings = um.LocalizationSettings(noise=um.NoiseSettings(seeds=2), theta=2.5, theta_floor=2.2)
    threshold = um.Threshold.given(pipe, 1e-6, settings.noise)
    few = replace(settings, initial_threshold=0.999999, refinement_threshold=0.999999)
    row = compare(pipe, um.Prompt("zebra quartz"), statistics, threshold, few)
    return [{**row, "kind": "random", "mode": "SD 1.4 U-Net"}] if row else []


def full_size_pipeline() -> StableDiffusionPipeline:
    torch.manual_seed(0)
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64, block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768, attention_head_dim=8, layers_per_block=2
        )
    unet = unet.to_empty(device="cpu")
    for name, parameter in unet.named_parameters():
        torch.nn.init.ones_(parameter) if parameter.ndim == 1 and name.endswith("weight") else torch.nn.init.normal_(parameter, std=0.02)
    letters = [chr(code) for code in range(ord("0"), ord("z") + 1)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    text = CLIPTextConfig(
        hidden_size=768, num_hidden_layers=2, num_attention_heads=12, vocab_size=len(words), bos_token_id=0, eos_token_id=1
    )
    down, up = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL(block_out_channels=(8, 8, 8, 8), norm_num_groups=4, down_block_types=down, up_block_types=up),
        text_encoder=CLIPTextModel(text),
        tokenizer=CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[], model_max_length=77),
        unet=unet.eval(),
        scheduler=DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ratio(rows: list[dict[str, Any]], method: str) -> float:
    """The median over prompts of published samples over ours, weighted."""
    return float(stats.median(row["published"]["weighted"] / row[method]["weighted"] for row in rows))


def show(rows: list[dict[str, Any]]) -> None:
    names = ("samples", "weighted", "seconds", "neurons", "score")
    for kind, mode in dict.fromkeys((row["kind"], row["mode"]) for row in rows):
        some = [row for row in rows if (row["kind"], row["mode"]) == (kind, mode)]
        print(f"{kind} {mode}: {len(some)} prompts, {stats.median(row['candidates'] for row in some):g} candidates")
        print(" " * 12 + "".join(f"{name:>10}" for name in (*names, "equal", "jaccard", "ratio", "time")))
        for method in ("published", *METHODS):
            cells = [row[method] for row in some]
            shown = [stats.median(cell[name] for cell in cells) for name in names]
            if method != "published":
                shown += [stats.mean(cell[name] for cell in cells) for name in ("equal", "jaccard")]
                shown += [ratio(some, method), stats.median(row["published"]["seconds"] / row[method]["seconds"] for row in some)]
            print(f"  {method:10}" + "".join(f"{value:10.3g}" for value in shown))
        print(f"  recorded outputs: {max(row['bisect']['recorded MiB'] for row in some):.0f} MiB at most")
        for stage in ("detection", "selection", "refinement"):
            spent = [stats.median(row[method][f"{stage} samples"] for row in some) for method in ("published", *METHODS)]
            print(f"  {stage} samples, weighted: " + ", ".join(f"{value:.3g}" for value in spent))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--prompts", type=int, default=34)
    parser.add_argument("--criterion", choices=("seeds", "unblocked"))
    parser.add_argument("--full-size", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    main(given.prompts, given.criterion, given.full_size, given.json)
