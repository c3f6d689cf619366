"""A small model in a folder that the commands work on, with one finished localization run."""

from __future__ import annotations

from pathlib import Path

from conftest import PLANTED_PROMPT, PROMPTS, planted_pipeline
from unmemorize.cli import main


def call(*words: object) -> None:
    """Run a command that must succeed."""
    assert main([str(word) for word in words]) == 0


def save_inputs(folder: Path) -> Path:
    """Save a tiny model that has memorized one prompt, and prompt files."""
    planted_pipeline().save_pretrained(folder / "model")
    (folder / "unmemorized.txt").write_text("\n".join(PROMPTS))
    (folder / "prompts.csv").write_text(f"prompt,kind\n{PLANTED_PROMPT},VM\nc word [/b],\n")
    return folder


def finish_run(folder: Path) -> Path:
    """Run `statistics`, `threshold` and `localize` on the saved inputs."""
    model = (*model_words(folder), "--local-files-only")
    ordinary = ("--prompts", folder / "unmemorized.txt")
    call("statistics", *model, *ordinary, "-o", folder / "s.safetensors")
    call("threshold", *model, *ordinary, "-o", folder / "t.json", "--deviations", 3)
    call(*localize_words(folder), "-o", folder / "run")
    return folder


def model_words(folder: Path) -> tuple[object, ...]:
    """Return the options of a command that works on the saved model."""
    return ("--model", folder / "model", "--device", "cpu")


def localize_words(folder: Path) -> tuple[object, ...]:
    """Return the call of `localize` that made the run of `finish_run`, without its folder."""
    model = (*model_words(folder), "--local-files-only")
    inputs = ("--prompts", folder / "prompts.csv", "--threshold", folder / "t.json")
    statistics = ("--statistics", folder / "s.safetensors")
    return ("localize", *model, *inputs, *statistics, "--criterion", "seeds")
