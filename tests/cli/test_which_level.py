"""The level that decides: what commands say and keep of it, and how they name it to the next."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from small_model import call, model_words, save_inputs

from unmemorize import Run, Threshold
from unmemorize.detection import Anisotropy
from unmemorize.localization import LocalizationRun

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, its statistics, and a threshold of seed similarity."""
    folder = save_inputs(tmp_path_factory.mktemp("levels"))
    ordinary = (*model_words(folder), "--prompts", folder / "unmemorized.txt")
    call("statistics", *ordinary, "-o", folder / "s.safetensors")
    call("threshold", *ordinary, "--detector", "seed-similarity", "-o", folder / "t.json")
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the user, for thresholds of 12 captions."""
    monkeypatch.setenv("UNMEMORIZE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("unmemorize.statistics._ordinary._FOR_THRESHOLDS", 12)
    return tmp_path / "cache"


def next_words(out: str) -> list[str]:
    """Return the command that the output names last, as words."""
    return shlex.split(out.rpartition("Next: unmemorize ")[2])


def test_a_seed_threshold_that_decides_is_the_level(cli: Cli, folder: Path, tmp_path: Path) -> None:
    calibrated = Threshold.load(folder / "t.json").detect
    assert calibrated.max_fpr is not None
    inputs = ("--prompts", folder / "prompts.csv", "--statistics", folder / "s.safetensors")
    words = ("localize", *model_words(folder), *inputs, "--threshold", folder / "t.json")
    code, out, _ = cli(*words, "--seed-threshold", 0.2, "-o", tmp_path / "run")
    assert code == 0
    assert "(tau = 0.2000 of seed-similarity; tau (given) bounds no rate of false positives)" in out
    found = json.loads((tmp_path / "run" / "neurons.json").read_text())["found"]
    assert found["detection_tau"] == 0.2
    assert Run.load(tmp_path / "run").settings(LocalizationRun).detection_tau == 0.2
    for record in Run.load(tmp_path / "run").records("localizations").values():
        assert record["detection"]["memorized"] == (record["detection"]["score"] > 0.2)
    code, out, _ = cli(*words, "-o", tmp_path / "other")
    assert (code, f"(tau = {calibrated.tau:.4f} of seed-similarity; at most" in out) == (0, True)
    found = json.loads((tmp_path / "other" / "neurons.json").read_text())["found"]
    assert found["detection_tau"] == calibrated.tau


@pytest.mark.parametrize("option", ["--max-fpr=0.2", "--reduction=prompts", "--deviations=2"])
def test_what_detect_would_not_find_needs_a_file(
    cli: Cli, folder: Path, cache: Path, option: str
) -> None:
    code, _, err = cli("threshold", *model_words(folder), option)
    name = option.partition("=")[0]
    assert (code, f"{name} is given, but no file for the result" in err) == (1, True)
    assert not list(cache.rglob("*.json"))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--seeds", "3"), ["--seeds", "3"]),
        (("--published",), ["--published"]),
        (("--detector", "anisotropy", "--seeds", "3"), ["--detector", "anisotropy"]),
    ],
)
def test_detect_finds_what_threshold_has_kept_by_its_hint(
    cli: Cli, folder: Path, cache: Path, tmp_path: Path, options: tuple[str, ...], named: list[str]
) -> None:
    code, out, _ = cli("threshold", *model_words(folder), *options)
    assert code == 0
    (kept,) = (cache / "thresholds").glob("*.json")
    assert f" {kept} " in out
    words = next_words(out)
    assert [word for word in named if word not in words] == []
    words[words.index("RUN")] = str(tmp_path / "run")
    code, out, _ = cli(*words, "--prompts", folder / "prompts.csv", "--device", "cpu")
    assert code == 0
    assert list((cache / "thresholds").glob("*.json")) == [kept]
    # and so does what detect names
    words = next_words(out)
    assert words[0] == "localize"
    words += ["--statistics", str(folder / "s.safetensors"), "--device", "cpu"]
    assert cli(*words)[0] == 0
    assert list((cache / "thresholds").glob("*.json")) == [kept]
    limit = Threshold.load(kept)
    run = Run.load(words[words.index("-o") + 1]).settings(LocalizationRun)
    assert (run.detector, run.detection_tau) == (limit.detect.detector, limit.detect.tau)
    assert run.localization.noise == limit.settings


def test_a_published_number_is_named_with_all_its_digits(
    cli: Cli, folder: Path, tmp_path: Path
) -> None:
    words = ("detect", *model_words(folder), "--prompts", folder / "prompts.csv")
    given = ("--published", "--seeds", 3, "--tau", 0.42812345)
    code, out, _ = cli(*words, *given, "-o", tmp_path / "run")
    assert code == 0
    assert "--tau 0.42812345 --published --seeds 3 " in out.rpartition("Next: ")[2]


def test_other_deviations_are_not_the_published_way(cli: Cli, folder: Path, tmp_path: Path) -> None:
    ordinary = (*model_words(folder), "--prompts", folder / "unmemorized.txt")
    published = ("--similarity", "published", "--protocol", "published", "--reduction", "pairs")
    for deviations, code in ((1, 0), (3, 1)):
        file = tmp_path / f"{deviations}.json"
        made = ("threshold", *ordinary, *published, "--deviations", deviations, "-o", file)
        assert cli(*made)[0] == 0
        prompts = (*model_words(folder), "--prompts", folder / "prompts.csv", "--published")
        words = ("detect", *prompts, "--threshold", file, "-o", tmp_path / f"run-{deviations}")
        found, _, err = cli(*words)
        assert (found, "calibrated with deviations=3, which" in err) == (code, bool(code))


def test_a_histogram_does_not_take_the_place_of_the_threshold(
    cli: Cli, folder: Path, tmp_path: Path
) -> None:
    words = ("threshold", *model_words(folder), "--prompts", folder / "unmemorized.txt")
    code, _, err = cli(*words, "-o", tmp_path / "t.PNG")
    assert (code, f"Name the threshold file {tmp_path}/t.json." in err) == (1, True)
    assert not list(tmp_path.iterdir())


def test_the_same_run_may_be_asked_for_its_discoveries(
    cli: Cli, folder: Path, tmp_path: Path
) -> None:
    """Detectors without a cascade look at the same seeds whatever --stop says."""
    common = (*model_words(folder), "--prompts", folder / "prompts.csv")
    ordinary = (*model_words(folder), "--prompts", folder / "unmemorized.txt")
    late = tmp_path / "t.json"
    assert cli("threshold", *ordinary, "-o", late)[0] == 0
    words = ("detect", *common, "--threshold", late, "-o", tmp_path / "run")
    assert cli(*words)[0] == 0
    code, out, err = cli(*words, "--fdr", 0.5)
    assert (code, "discoveries.json" in out) == (0, True), err
    assert cli(*words, "--stop", "never")[0] == 0
    words = ("detect", *common, "--threshold", folder / "t.json", "-o", tmp_path / "similar")
    assert cli(*words)[0] == 0
    code, _, err = cli(*words, "--fdr", 0.5)
    assert (code, 'stop = "decided", now it is "cleared"' in err) == (1, True)


def test_counts_hold_for_detectors_that_spend_prompts_on_units(
    cli: Cli, folder: Path, tmp_path: Path
) -> None:
    """Of 12 prompts anisotropy spends 2, and 1 / (n + 1) of the other 10 is .0910."""
    captions = tmp_path / "12.txt"
    captions.write_text("\n".join(f"word {letter}" for letter in "abcdefghijkl"))
    words = ("threshold", *model_words(folder), "--prompts", captions)
    units = ("--detector", Anisotropy.name, "-o", tmp_path / "t.json")
    code, _, err = cli(*words, *units, "--max-fpr", 0.05)
    assert (code, "12 prompts are too few" in err, "at least 23." in err) == (1, True, True)
    code, out, _ = cli(*words, *units)
    assert (code, "A rate of 0.01 takes at least 123 prompts." in out) == (0, True)
    prompts = ("--prompts", folder / "prompts.csv", "--threshold", tmp_path / "t.json")
    code, out, _ = cli(
        "detect", *model_words(folder), *prompts, "--fdr", 0.02, "-o", tmp_path / "r"
    )
    assert (code, "calibrate on at least 123 captions" in out) == (0, True)
