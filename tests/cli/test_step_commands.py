"""Each step of the method as a command, on a tiny model in a folder."""

import csv
import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_model import finish_run, localize_words, model_words, save_inputs

from conftest import PLANTED_PROMPT
from networks import Network, save_onnx, save_script, statistics_for
from server import SHA256
from unmemorize import (
    GuardThreshold,
    LocalizationSettings,
    Model,
    NeuronFile,
    NoiseSettings,
    Run,
    Statistics,
    Threshold,
    read_prompts,
    testbed,
)
from unmemorize.export._published_layers import WIDTHS
from unmemorize.guarding import _kept
from unmemorize.localization import LocalizationRun

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and the files and run that the first commands made on it."""
    return finish_run(save_inputs(tmp_path_factory.mktemp("cli")))


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished localization run."""
    shutil.copytree(finished / "run", tmp_path / "run")
    return tmp_path / "run"


def test_the_whole_way_on_a_model_from_a_folder(
    cli: Cli, finished: Path, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert Statistics.load(finished / "s.safetensors").count == 6
    assert Threshold.load(finished / "t.json").localize.deviations == 3
    model = model_words(finished)
    localize = (*localize_words(finished), "-o", run)
    first = Run.load(run).records("localizations")
    code, out, _ = cli(*localize, "--profile")
    assert (code, "1 of 2 memorized" in out) == (0, True)
    assert re.search(r"detection +2 +14 ", out)  # of the memorized one 10 seeds more
    assert re.search(r"refinement +1 ", out)
    assert "the rest was replayed" in out
    assert f"Next: unmemorize generate {run}" in out
    assert Run.load(run).records("localizations") == first
    neurons = NeuronFile.load(run / "neurons.json")
    neurons.check(Model.load(str(finished / "model"), device="cpu"))
    assert len(neurons.neurons) >= 1
    code, _, err = cli(*localize, "--theta", 4)
    assert (code, "this run was made with localization.theta = 5.0, now it is 4" in err) == (
        1,
        True,
    )
    assert "--new-run" in err
    code, _, err = cli("evaluate", run)
    assert (code, "no images to evaluate" in err) == (1, True)
    small = ("--images", 2, "--steps", 2, "--guidance", 2)
    code, out, _ = cli("generate", run, *model, *small)
    assert (code, f"Next: unmemorize evaluate {run}" in out) == (0, True)
    code, out, _ = cli("generate", run, *model, *small, "--method", "random-tokens=2")
    assert (code, "random-tokens 2: " in out) == (0, True)
    code, out, _ = cli("evaluate", run)
    assert (code, "Take its numbers on other images as a hint" in caplog.text) == (0, True)
    assert "random-tokens-2" in out
    table = json.loads((run / "metrics.json").read_text())
    same = next(row for row in table["rows"] if row["label"] == "SSCD_Gen, neurons off")
    assert same["by"].startswith("unmemorize-copy-64 (sha256 ")
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    assert next(row for row in rows if row["measure"] == same["label"])["value"] == str(
        same["cells"]["VM"]["value"]
    )
    code, out, _ = cli("report", run)
    assert (code, "report.html" in out) == (0, True)
    assert PLANTED_PROMPT in (run / "report.html").read_text()
    code, out, _ = cli("status", run)
    assert (code, out.startswith("Finished: localization of 2 prompts.")) == (0, True)
    assert re.search(r"localizations +2 ", out)
    assert out.endswith(f"report: {run / 'report.html'}")


def test_the_next_command_can_be_copied(cli: Cli, finished: Path, tmp_path: Path) -> None:
    def follow(out: str, *more: object) -> str:
        words = shlex.split(out.rpartition("Next: unmemorize ")[2])
        code, out, err = cli(*words, *more)
        assert code == 0, (words, err)
        return out

    model, folder = (*model_words(finished), "--local-files-only"), tmp_path / "my run"
    inputs = ("--prompts", finished / "prompts.csv", "--threshold", finished / "t.json")
    _, out, _ = cli("detect", *model, *inputs, "-o", folder)
    out = follow(out, "--device", "cpu", "--statistics", finished / "s.safetensors")
    localized = Run.load(tmp_path / "my run-localized")
    detected = Run.load(folder).manifest.settings["threshold_prompts"]
    assert localized.manifest.settings["threshold_prompts"] == detected
    out = follow(out, "--images", 1, "--steps", 2)
    out = follow(follow(out))
    assert out.endswith(f"'{localized.folder}/neurons.json' --model MODEL -o FOLDER")


def test_a_run_without_memorized_prompts_leads_to_its_report(
    cli: Cli, finished: Path, tmp_path: Path
) -> None:
    (tmp_path / "prompts.txt").write_text("c word [/b]\n")
    inputs = ("--threshold", finished / "t.json", "--statistics", finished / "s.safetensors")
    words = ("--prompts", tmp_path / "prompts.txt", *inputs, "-o", tmp_path / "run")
    code, out, _ = cli("localize", *model_words(finished), *words)
    assert (code, "0 of 1 memorized" in out, "neurons initial score" in out) == (0, True, False)
    assert out.endswith(f"Next: unmemorize report {tmp_path}/run")
    code, out, _ = cli("generate", tmp_path / "run", *model_words(finished))
    assert (code, "nothing to draw" in out) == (0, True)
    assert out.endswith(f"Next: unmemorize report {tmp_path}/run")
    code, out, _ = cli("report", tmp_path / "run")
    assert (code, out.endswith(f"Next: unmemorize status {tmp_path}/run")) == (0, True)


def test_a_new_run_leaves_the_old_one(cli: Cli, finished: Path, run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    code, out, _ = cli(*localize_words(finished), "--theta", 4, "-o", run, "--new-run")
    assert (code, f"Next: unmemorize generate {run}-2" in out) == (0, True)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    settings = Run.load(run.with_name("run-2")).manifest.settings
    assert settings["localization"]["theta"] == 4.0


def test_shards_of_statistics_merge(cli: Cli, finished: Path, tmp_path: Path) -> None:
    common = ("statistics", *model_words(finished), "--prompts", finished / "unmemorized.txt")
    assert cli(*common, "-o", tmp_path / "whole.safetensors", "--raw", tmp_path / "raw")[0] == 0
    assert (tmp_path / "raw" / "000000.safetensors").exists()
    parts = [tmp_path / f"{number}.safetensors" for number in (1, 2, 3)]
    for number, part in enumerate(parts, 1):
        assert cli(*common, "--shard", f"{number}/3", "-o", part)[0] == 0
    again = ("merge-statistics", *parts, parts[0], "-o", tmp_path / "twice.safetensors")
    code, _, err = cli(*again)
    assert (code, f"{parts[0]}: statistics of the same prompts as {parts[0]}" in err) == (1, True)
    code, out, _ = cli("merge-statistics", *reversed(parts), "-o", tmp_path / "merged.safetensors")
    assert (code, "6 prompts, 7 value layers" in out) == (0, True)
    whole, merged = (
        Statistics.load(tmp_path / f"{name}.safetensors") for name in ("whole", "merged")
    )
    assert (merged.count, merged.prompts, merged.fingerprint) == (
        whole.count,
        whole.prompts,
        whole.fingerprint,
    )
    code, _, err = cli(*common, "--shard", "4/3", "-o", tmp_path / "x.safetensors")
    assert (code, "not a share of a whole" in err) == (1, True)


def test_threshold_with_a_bound_and_its_histogram(cli: Cli, finished: Path, tmp_path: Path) -> None:
    common = (
        "threshold",
        *model_words(finished),
        "--prompts",
        finished / "unmemorized.txt",
        "-o",
        tmp_path / "t.json",
    )
    code, out, _ = cli(*common, "--max-fpr", 0.2)
    rate = "at most 0.2 of unmemorized prompts like the 6 of its calibration"
    assert (code, rate in out) == (0, True)
    assert "A rate of 0.01 takes at least 99 prompts." in out
    with Image.open(tmp_path / "t.png") as picture:
        assert picture.format == "PNG"
    code, _, err = cli(*common, "--max-fpr", 0.01)
    assert (code, "it takes at least 99" in err) == (1, True)


def test_another_detector_from_threshold_to_verdicts(
    cli: Cli, finished: Path, tmp_path: Path
) -> None:
    model = model_words(finished)
    ordinary = ("--prompts", finished / "unmemorized.txt")
    threshold = tmp_path / "t.json"
    other = ("--detector", "noise-magnitude", "--seeds", 3)
    code, out, _ = cli("threshold", *model, *ordinary, *other, "-o", threshold)
    assert (code, " of noise-magnitude; at most 0.143 of" in out) == (0, True)
    assert "over prompts), for the criterion seeds" in out
    assert f"Next: unmemorize detect --threshold {threshold}" in out
    suspects = ("--prompts", finished / "prompts.csv", "--threshold", threshold)
    named = ("--detector", "noise-magnitude")
    assert cli("detect", *model, *suspects, *named, "-o", tmp_path / "run")[0] == 0
    lines = (tmp_path / "run" / "detections.jsonl").read_text().splitlines()
    records = {record["prompt"]: record for record in map(json.loads, lines)}
    assert records[PLANTED_PROMPT]["memorized"]
    assert {record["detector"] for record in records.values()} == {"noise-magnitude"}
    code, _, err = cli("detect", *model, *suspects, "--detector", "dsm", "-o", tmp_path / "other")
    assert (code, "for the detector noise-magnitude, not for dsm" in err) == (1, True)
    published = ("--published", "--tau", 0.4, "--detector", "dsm")
    code, _, err = cli("detect", *model, *ordinary, *published, "-o", tmp_path / "other")
    assert (code, "not scores of dsm. Calibrate one" in err) == (1, True)
    code, _, err = cli("threshold", *model, *ordinary, "--detector", "loudness", "-o", threshold)
    assert (code, "Known: anisotropy, attention-entropy" in err) == (1, True)


def test_detection_bounds_the_share_of_false_discoveries(
    cli: Cli, finished: Path, tmp_path: Path
) -> None:
    common = (
        "detect",
        *model_words(finished),
        *("--prompts", finished / "prompts.csv", "--threshold", finished / "t.json"),
    )
    run = ("-o", tmp_path / "run")
    code, out, _ = cli(*common, "--fdr", 0.3, *run)
    assert code == 0
    assert "among 2 prompts unless 1 prompt is discovered" in out
    assert "Warning" not in out
    content = json.loads((tmp_path / "run" / "discoveries.json").read_text())
    assert (content["count"], content["prompts"], content["calibration"]) == (1, 2, 6)
    rows = list(csv.DictReader((tmp_path / "run" / "detections.csv").read_text().splitlines()))
    assert [row["discovery"] for row in rows] == ["1", "0"]
    assert float(rows[0]["p_value"]) == content["p_value"] == pytest.approx(1 / 7)
    code, out, _ = cli(*common, "--fdr", 0.05, *run)  # the same scores at another rate
    assert "nothing is found among 2 prompts unless at least 6 prompts are discovered" in out
    assert "calibrate on at least 39 captions" in out
    assert "0 of 2 prompts are discovered at a false discovery rate of 0.05" in out
    code, _, err = cli(*common, "--fdr", 0.3, "--stop", "decided", *run)
    assert (code, "Use --stop cleared" in err) == (1, True)
    given = ("--published", "--tau", 0.4, "--fdr", 0.3, "-o", tmp_path / "given")
    code, _, err = cli(*common[:-2], *given)
    assert (code, "this threshold has none" in err) == (1, True)


def test_prompts_known_as_memorized_are_not_counted_as_others(
    cli: Cli, finished: Path, tmp_path: Path
) -> None:
    prompts = finished / "prompts.csv"
    words = ("--prompts", prompts, "--unmemorized", prompts, "--threshold", finished / "t.json")
    code, _, err = cli("detect", *model_words(finished), *words, "-o", tmp_path / "run")
    assert code == 1
    assert (
        "its kind is 'VM'. So it is memorized, but its group (or the option --unmemorized)" in err
    )


def test_detection_tells_how_well_it_tells_apart(cli: Cli, finished: Path, tmp_path: Path) -> None:
    common = ("detect", *model_words(finished), "--prompts", finished / "prompts.csv")
    code, out, _ = cli(
        *common,
        "--unmemorized",
        finished / "unmemorized.txt",
        "--threshold",
        finished / "t.json",
        "-o",
        tmp_path / "run",
    )
    assert (code, "VM (1) against unmemorized (6): AUROC 1.000" in out) == (0, True)
    assert (
        json.loads((tmp_path / "run" / "separation.json").read_text())["VM"]["auroc"]["value"]
        == 1.0
    )
    rows = list(csv.DictReader((tmp_path / "run" / "detections.csv").read_text().splitlines()))
    assert [row["group"] for row in rows] == ["VM", "unlabelled", *["unmemorized"] * 6]
    code, out, _ = cli(
        *common, "--tau", 0.999, "--published", "--seeds", 3, "-o", tmp_path / "other"
    )
    verdicts = "0 of 2 memorized (tau = 0.9990; tau (given) bounds no rate"
    assert (code, verdicts in out, "AUROC" in out) == (0, True, False)
    code, out, _ = cli(
        *common,
        "--threshold",
        finished / "t.json",
        "--batch",
        4,
        "--profile",
        "-o",
        tmp_path / "cascade",
    )
    assert code == 0
    taken = [
        record["seeds"] for record in Run.load(tmp_path / "cascade").records("detections").values()
    ]
    assert min(taken) == 2
    assert re.search(rf"all +2 +{sum(taken)} +100%", out)
    code, _, err = cli(
        *common, "--tau", 0.5, "--threshold", finished / "t.json", "-o", tmp_path / "third"
    )
    assert (code, "both --tau and --threshold" in err) == (1, True)
    code, _, err = cli(
        *common, "--seeds", 3, "--threshold", finished / "t.json", "-o", tmp_path / "third"
    )
    assert (code, "calibrated with seeds=10, but this run has seeds=3" in err) == (1, True)


def test_every_option_of_localization_reaches_the_run(
    cli: Cli, finished: Path, tmp_path: Path
) -> None:
    common = ("localize", *model_words(finished), "--prompts", finished / "prompts.csv")
    made = (
        "--statistics",
        finished / "s.safetensors",
        "--tau",
        0.4,
        "--seeds",
        4,
        "--seed",
        3,
        "--protocol",
        "paper",
        "--guidance",
        2,
        "--similarity",
        "published",
    )
    options = (
        *(
            "--refinement",
            "greedy",
            "--layers",
            "down_blocks.0.*",
            "--theta",
            4,
            "--theta-step",
            0.5,
            "--theta-floor",
            2,
            "--top-k",
            1,
            "--no-theta",
        ),
        *(
            "--scale",
            0.1,
            "--seed-threshold",
            0.3,
            "--initial-threshold",
            0.5,
            "--relative-threshold",
            0.6,
        ),
    )
    assert cli(*common, *made, *options, "-o", tmp_path / "run")[0] == 0
    settings = Run.load(tmp_path / "run").manifest.settings
    noise = settings["localization"].pop("noise")
    assert noise == {
        "seeds": 4,
        "seed": 3,
        "steps": 50,
        "protocol": "paper",
        "guidance": 2.0,
        "similarity": "published",
    }
    expected = {
        "criterion": "auto",
        "refinement": "greedy",
        "layers": "down_blocks.0.*",
        "theta": 4.0,
        "theta_step": 0.5,
        "theta_floor": 2.0,
        "top_k": 1,
        "use_theta": False,
        "use_top_k": True,
        "scale": 0.1,
        "seed_threshold": 0.3,
        "initial_threshold": 0.5,
        "refinement_threshold": None,
        "relative_threshold": 0.6,
    }
    assert settings["localization"] == expected
    assert settings["tau"] == 0.4
    assert settings["searched"]
    assert all(path.startswith("down_blocks.0") for path in settings["searched"])
    code, _, err = cli(*common, *made, "--no-theta", "--no-top-k", "-o", tmp_path / "other")
    assert (code, "nothing would be a candidate" in err) == (1, True)


def test_the_published_way_from_threshold_to_localization(
    cli: Cli, finished: Path, tmp_path: Path
) -> None:
    model = model_words(finished)
    ordinary = ("--prompts", finished / "unmemorized.txt")
    published = tmp_path / "t.json"
    assert cli("threshold", *model, *ordinary, "--published", "-o", published)[0] == 0
    threshold = Threshold.load(published)
    assert threshold.settings == NoiseSettings(protocol="published", similarity="published")
    assert (threshold.detect.reduction, threshold.detect.max_fpr) == ("pairs", None)
    assert threshold.detect.tau == threshold.localize.tau
    prompts = ("--prompts", finished / "prompts.csv", "--published")
    code, out, _ = cli("detect", *model, *prompts, "--threshold", published, "-o", tmp_path / "d")
    assert (code, f"(tau = {threshold.detect.tau:.4f}; tau (pairs) bounds no" in out) == (0, True)
    records = Run.load(tmp_path / "d").records("detections").values()
    assert {record["similarity"] for record in records} == {"published"}
    statistics = ("--statistics", finished / "s.safetensors")
    found = ("localize", *model, *prompts, *statistics, "--tau", 0.428, "-o", tmp_path / "l")
    assert cli(*found)[0] == 0
    settings = Run.load(tmp_path / "l").settings(LocalizationRun)
    assert settings.localization == LocalizationSettings.published()
    assert settings.tau == 0.428
    assert json.loads((tmp_path / "l" / "neurons.json").read_text())["found"]["similarity"] == (
        "published"
    )
    records = Run.load(tmp_path / "l").records("localizations").values()
    assert {record["similarity"] for record in records} == {"published"}


def test_without_files_a_model_is_measured_on_captions_of_the_package(
    cli: Cli, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNMEMORIZE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("unmemorize.statistics._ordinary._FOR_THRESHOLDS", 8)
    monkeypatch.setattr("unmemorize.statistics._ordinary._FOR_STATISTICS", 9)
    words = (*model_words(finished), "--prompts", finished / "prompts.csv")
    found = ("localize", *words, "--seed-threshold", 0.2, "-o", tmp_path / "run")
    code, out, _ = cli(*found)
    assert code == 0
    (kept_statistics,) = (tmp_path / "cache" / "statistics").glob("*.safetensors")
    (kept_threshold,) = (tmp_path / "cache" / "thresholds").glob("*.json")
    limit = Threshold.load(kept_threshold)
    assert f"(tau = {limit.detect.tau:.4f} of late-noise-magnitude; at most 0.112 of" in out
    assert "like the 8 of its calibration are expected above tau; of other prompts it may" in out
    model = model_words(finished)
    by_similarity = tmp_path / "similarity.json"
    cli("threshold", *model, "--detector", "seed-similarity", "-o", by_similarity)
    assert Threshold.load(by_similarity).localize == limit.localize
    _, out, _ = cli(*found[:-1], tmp_path / "floors", "--threshold", by_similarity)
    records = Run.load(tmp_path / "floors").records("localizations").values()
    floors = sum(bool(record["floor"]) for record in records)
    assert floors
    assert f"{floors} prompt(s) stay above tau = {limit.localize.tau:.4f} with all" in out
    code, out, _ = cli("statistics", *model, "-o", tmp_path / "s.safetensors")
    assert (code, f"9 prompts, 7 value layers: {tmp_path}/s.safetensors" in out) == (0, True)
    assert (tmp_path / "s.safetensors").read_bytes() == kept_statistics.read_bytes()
    code, out, _ = cli("threshold", *model)
    assert (code, f" {kept_threshold} " in out) == (0, True)
    assert "A rate of 0.01 takes at least 99 prompts." in out
    assert out.endswith(f"Next: unmemorize detect --model {finished}/model -o RUN")
    code, out, _ = cli("threshold", *model, "-o", tmp_path / "t.json")
    assert (code, Threshold.load(tmp_path / "t.json") == limit) == (0, True)
    hint = f"Next: unmemorize detect --threshold {tmp_path}/t.json --model {finished}/model -o RUN"
    assert out.endswith(hint)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "embedding=3"), "--scale: no neurons are switched off"),
        (("--method", "embedding=3", "--neurons", "original"), "--method NAME=STRENGTH"),
        (("--neurons", "original"), "Name some by --neurons"),
        (
            ("--prompts", "a.txt", "--neurons", "original"),
            "--only VM: it chooses among the prompts",
        ),
        (("--prompts", "a.txt", "--neurons", "n.json"), "Leave --only or --prompts out"),
        (("--prompts", "a.txt", "--method", "embedding"), "Leave --only or --prompts out"),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    cli: Cli, words: tuple[str, ...], message: str
) -> None:
    """Before the model is loaded or the run is looked at."""
    useless = ("--only", "VM") if "--prompts" in words else ("--scale", 0.5)
    code, _, err = cli("generate", "RUN", *words, *useless)
    assert (code, message in " ".join(err.split())) == (1, True)


def test_images_and_metrics_of_every_kind(
    cli: Cli, finished: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ("generate", run, *model_words(finished), "--images", 2, "--steps", 2, "--guidance", 2)
    names = (
        "original",
        "refined",
        "random-refined",
        "top-1",
        "top-1-per-layer",
        "top-1-groups",
        str(run / "neurons.json"),
    )
    code, out, _ = cli(*common, *(part for name in names for part in ("--neurons", name)))
    assert (code, "file-neurons" in out) == (0, True)
    assert (
        cli(*common, "--neurons", "refined", "--scale", 0.5, "--only", "VM", "--format", "jpeg")[0]
        == 0
    )
    (tmp_path / "animals.txt").write_text("a cat\na dog\n")
    (tmp_path / "plants").mkdir()
    (tmp_path / "plants" / "one.txt").write_text("a tree\n")
    others = (
        "--prompts",
        tmp_path / "animals.txt",
        "--neurons",
        "original",
        "--neurons",
        "random-top-1",
    )
    assert cli(*common, *others)[0] == 0
    sets = {path.name: len(list(path.glob("0*"))) for path in (run / "images").iterdir()}
    assert sets == {
        **dict.fromkeys(
            (
                "original",
                "refined",
                "random-refined",
                "top-1",
                "top-1-per-layer",
                "top-1-groups",
                "file-neurons",
            ),
            2,
        ),
        "refined-scale-0.5": 2,
        "original-on-animals": 4,
        "random-top-1-on-animals": 4,
    }
    monkeypatch.chdir(tmp_path / "plants")
    assert cli(*common, "--prompts", ".", "--neurons", "original")[0] == 0
    images = list((run / "images/original-on-plants").glob("*.png"))
    assert len(images) == 2
    code, _, err = cli(*common, "--neurons", "everything")
    assert (code, "neurons 'everything': unknown. Use original" in err) == (1, True)
    real = tmp_path / "real"
    real.mkdir()
    for number, shade in enumerate((10, 90, 200)):
        Image.new("RGB", (64, 64), (shade, 80, 30)).save(real / f"{number:04d}_x.png")
    save_onnx(tmp_path / "colours.onnx")
    sha256 = save_script(Network(), tmp_path / "inception-small.pt")
    evaluate = ("evaluate", run, "--descriptor", tmp_path / "colours.onnx", "--descriptor-side", 16)
    looking = (
        "--clip",
        testbed.clip_path(),
        "--inception",
        tmp_path / "inception-small.pt",
        "--inception-sha256",
        sha256,
    )
    code, _, err = cli(*evaluate, "--real", real, "--inception", tmp_path / "inception-small.pt")
    assert (code, "Give the SHA-256" in err) == (1, True)
    code, _, err = cli(*evaluate, "--references", real)
    assert (code, "reach from 0 to 2, but the run has 2 prompts" in err) == (1, True)
    references = tmp_path / "references"
    shutil.copytree(real, references)
    (references / "0002_x.png").unlink()
    code, out, _ = cli(*evaluate, *looking, "--real", real, "--references", references)
    assert code == 0
    line = "training images of 2 of 2 prompts, by number, counted from 0: 0000_x.png belongs to"
    assert f"{line} prompt 0" in " ".join(out.split())
    rows = {row["label"]: row for row in json.loads((run / "metrics.json").read_text())["rows"]}
    assert rows["FID to real, random-top-1"]["cells"]["animals"]["count"] == 4
    assert rows["CLIP-FID to real, before"]["by"].startswith("clip (sha256 ")
    assert rows["SSCD_Orig, top-1"]["cells"]["VM"]["count"] == 1
    assert rows["SSCD_Orig, top-1"]["by"].startswith("colours (sha256 ")
    assert "A_CLIP, refined-scale-0.5" in rows
    code, _, err = cli(*evaluate, "--sscd", tmp_path / "colours.onnx")
    assert (code, "both --sscd and --descriptor" in err) == (1, True)
    code, _, err = cli("evaluate", run, "--real", real)
    assert (code, "Give --inception, --clip, or both" in err) == (1, True)
    code, _, err = cli("evaluate", run, "--sscd", tmp_path / "inception-small.pt")
    assert (code, "It is damaged or another file" in err) == (1, True)
    (references / "0000_x.png").write_text("no image")
    code, out, err = cli(*evaluate, "--references", references)
    assert (code, "none of the 1 training images can be read, such as 0000_x.png" in err) == (
        1,
        True,
    )
    assert "Warning: training images unreadable: 1 (0000_x.png)" in " ".join(out.split())
    (references / "0000_x.png").unlink()
    (references / "0001_x.png").rename(references / "0002_x.png")
    code, out, err = cli(*evaluate, "--references", references)
    assert (code, "belongs to a prompt with generated images" in err) == (1, True)
    assert cli("report", run)[0] == 0
    assert "refined-scale-0.5" in (run / "report.html").read_text()


def test_published_files_in_and_out(cli: Cli, finished: Path, tmp_path: Path) -> None:
    code, out, _ = cli("export", "upstream-csv", finished / "run", "-o", tmp_path / "out.csv")
    assert (code, "2 prompts" in out) == (0, True)
    back = (
        "import-upstream",
        tmp_path / "out.csv",
        "-o",
        tmp_path / "back",
        "--model",
        finished / "model",
    )
    code, out, _ = cli(*back, "-p", finished / "prompts.csv")
    assert (code, "2 prompts, 1 of them with neurons" in out) == (0, True)
    before, after = (
        Run.load(path).records("localizations") for path in (finished / "run", tmp_path / "back")
    )
    assert [record["neurons"] for record in after.values()] == [
        record["neurons"] for record in before.values()
    ]
    assert cli("report", tmp_path / "back")[0] == 0
    torch.save(statistics_for(list(WIDTHS.values())), tmp_path / "s.pt")
    code, out, _ = cli("import-upstream", tmp_path / "s.pt", "-o", tmp_path / "s.safetensors")
    assert (code, "50000 prompts, 7 value layers" in out) == (0, True)
    code, _, err = cli("import-upstream", finished / "t.json", "-o", tmp_path / "x")
    assert (code, "neither statistics (.pt) nor results (.csv)" in err) == (1, True)


def test_downloads(cli: Cli, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmemorize.cli.fetch.SSCD_URL", f"{address}/file")
    code, _, err = cli("fetch", "sscd", "-o", tmp_path / "sscd.pt")
    assert (code, "expected 9f26bd4c" in err) == (1, True)
    monkeypatch.setattr("unmemorize.cli.fetch.SSCD_SHA256", SHA256)
    assert cli("fetch", "sscd", "-o", tmp_path / "sscd.pt")[0] == 0
    (tmp_path / "p.csv").write_text(f"Caption;URL\na;{address}/picture.png\nb;{address}/none.png\n")
    code, out, _ = cli("fetch", "images", tmp_path / "p.csv", "-o", tmp_path / "images")
    assert (code, "1 of 2 images" in out, "0001: " in out) == (0, True, True)
    (tmp_path / "p.csv").write_text(f"Caption;URL\nb;{address}/none.png\n")
    (tmp_path / "none.csv").write_text("prompt\na cat\n")
    code, _, err = cli("fetch", "images", tmp_path / "none.csv", "-o", tmp_path / "nothing")
    assert (code, "no prompt has an address. Its column is URL or urls." in err) == (1, True)
    code, _, err = cli("fetch", "images", tmp_path / "p.csv", "-o", tmp_path / "nothing")
    assert (code, "no image could be downloaded" in err) == (1, True)


def test_captions_of_the_bundled_model(cli: Cli, tmp_path: Path) -> None:
    code, out, _ = cli("testbed", "captions", "-o", tmp_path / "captions.txt")
    assert (code, "1100 captions" in out) == (0, True)
    assert [prompt.text for prompt in read_prompts(tmp_path / "captions.txt")] == list(
        testbed.captions("test")
    )


def test_a_guard_keeps_images_that_look_like_copies_from_being_written(
    cli: Cli, finished: Path, run: Path, tmp_path: Path
) -> None:
    model, file = model_words(finished), tmp_path / "guard.json"
    ordinary = ("--prompts", finished / "unmemorized.txt")
    code, out, _ = cli("guard", *model, *ordinary, "-o", file)
    threshold = GuardThreshold.load(file)
    assert (code, len(threshold.scores)) == (0, 6)
    assert f"guard: tau = {threshold.tau:.4f} at timestep 281; at most 0.143 of" in out
    assert f"Next: unmemorize generate RUN --guard-threshold {file}" in out
    assert list(tmp_path.glob(".*partial")) == []
    words = ("generate", run, *model, "--images", 2, "--steps", 2, "--guidance", 2)
    guarded = (*words, "--neurons", "original", "--guard-threshold", file)
    images = run / "images/original-guarded"
    for tau, alarms in ((0.001, 1), (1e6, 0)):
        replace(threshold, tau=tau).save(file)
        if images.exists():
            code, _, err = cli(*guarded)
            assert (code, "made with guard.tau = 0.001, now it is 1000000.0" in err) == (1, True)
            assert f"delete {images}" in err
            shutil.rmtree(images)
        code, out, err = cli(*guarded)
        assert code == (1 if alarms else 0)
        assert f"guard: {alarms} of 1 prompts have an image that looked like a copy in its" in out
        assert ("1 of 1 prompts failed" in err) == bool(alarms)
        assert ("AlarmError: the guard has stopped an image" in err) == bool(alarms)
        assert len(list(images.glob("*.png"))) == (0 if alarms else 2)
    code, _, err = cli(*guarded, "--workers", 2)
    assert (code, "--guard watches the pipeline of this process" in err) == (1, True)
    code, _, err = cli("guard", *model, *ordinary)
    assert (code, "no file for the result" in err) == (1, True)


def test_images_drawn_without_the_guard_never_count_as_judged(
    cli: Cli, finished: Path, run: Path, tmp_path: Path
) -> None:
    model, file = model_words(finished), tmp_path / "guard.json"
    cli("guard", *model, "--prompts", finished / "unmemorized.txt", "-o", file)
    replace(GuardThreshold.load(file), tau=0.001).save(file)
    words = ("generate", run, *model, "--images", 2, "--steps", 2, "--guidance", 2)
    words = (*words, "--neurons", "refined")
    for _ in range(2):  # a guarded set leaves none for the unguarded one either
        assert cli(*words)[0] == 0
        code, out, _ = cli(*words, "--guard-threshold", file)
        assert (code, "guard: 1 of 1 prompts have an image that looked like" in out) == (1, True)
        assert len(list((run / "images/refined").glob("*.png"))) == 2
        assert list((run / "images/refined-guarded").glob("*.png")) == []
        shutil.rmtree(run / "images/refined")


def test_a_guard_needs_no_file(
    cli: Cli, finished: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_kept, "threshold_captions", lambda _: ("a", "b"))
    model = model_words(finished)
    code, out, _ = cli("guard", *model)
    assert (code, "Next: unmemorize generate RUN --guard" in out, "/guards/" in out) == (
        0,
        True,
        True,
    )
    words = ("generate", run, *model, "--images", 1, "--steps", 2, "--guidance", 2, "--guard")
    code, out, _ = cli(*words, "--neurons", "original")
    assert "of 1 prompts have an image that looked like a copy" in out
