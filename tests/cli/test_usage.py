"""The command line itself: help, exit codes, errors, and that options arrive where they belong."""

import io
import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from cyclopts import App
from small_model import finish_run, localize_words, model_words, save_inputs

import unmemorize.cli
from compared_run import compared_run
from conftest import PLANTED_PROMPT
from tasks import AnyRun
from unmemorize import (
    Calibration,
    Model,
    NeuronFile,
    Prompt,
    Run,
    RunError,
    Threshold,
    UnmemorizeError,
)
from unmemorize.cli import COMMANDS, GROUPS, main, make_app
from unmemorize.cli import run as run_command_line
from unmemorize.cli._common import report_missing
from unmemorize.detection import DetectionRun
from unmemorize.engines import Execution, InProcess, RayActors, Shard, Workers
from unmemorize.export import Exported
from unmemorize.mitigation import MitigationResult, MitigationRun, MitigationSettings
from unmemorize.report import Delivery
from unmemorize.runs import Inputs, Tally, open_run
from unmemorize.statistics import threshold_captions
from unmemorize.testbed._findings import Finding

Cli = Callable[..., tuple[int, str, str]]
Recorded = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and the files and run that the first commands made on it."""
    return finish_run(save_inputs(tmp_path_factory.mktemp("cli")))


@pytest.fixture(scope="module")
def occupied(finished: Path) -> Path:
    """The same folder with the beginnings of further runs, and a folder that is no run."""
    model = Model.load(str(finished / "model"), device="cpu")
    threshold = Threshold.load(finished / "t.json")
    detect = DetectionRun.of(threshold)
    assert detect.detector == "late-noise-magnitude"
    mitigate = MitigationRun(
        settings=MitigationSettings(),
        detector="late-noise-magnitude",
        tau=0.5,
        threshold_prompts="",
        statistics_prompts="",
        captions="",
        descriptor="",
        clip="",
    )
    open_run(finished / "detected", model, [Prompt("a")], detect)
    open_run(finished / "mitigated", model, [Prompt("a")], mitigate)
    (finished / "other").mkdir()
    (finished / "other" / "file").write_text("")
    return finished


class ReachedError(UnmemorizeError):
    """Raised in place of the work, once a command has handed down its options."""


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """Replace a function; returns the arguments that it will be called with."""

    def replace(target: str) -> dict[str, Any]:
        arguments: dict[str, Any] = {}

        def record(*positional: Any, **named: Any) -> None:
            arguments.update(named, positional=positional)
            raise ReachedError(target)

        monkeypatch.setattr(target, record)
        return arguments

    return replace


def every_command() -> list[tuple[str, ...]]:
    calls: list[tuple[str, ...]] = []
    for name in COMMANDS:
        app: App = make_app(name)[name]
        calls.append((name,))
        calls += [(name, inner) for inner in app if name in GROUPS and not inner.startswith("-")]
    return calls


@pytest.mark.parametrize("command", every_command(), ids=" ".join)
def test_help_explains_every_command(cli: Cli, command: tuple[str, ...]) -> None:
    code, out, _ = cli(*command, "--help")
    assert code == 0
    assert out.startswith(f"Usage: unmemorize {' '.join(command)}")
    assert len(out) > 150
    assert "completion" not in out
    assert cli(*command, "-h") == (0, out, "")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_overview_says_what_the_help_says(name: str) -> None:
    description = make_app(name)[name].help
    assert description.splitlines()[0] == COMMANDS[name]


@pytest.mark.parametrize("command", every_command(), ids=" ".join)
def test_every_option_is_explained_by_a_sentence(command: tuple[str, ...]) -> None:
    app = make_app(command[0])
    for name in command:
        app = app[name]
    if command[0] in GROUPS and len(command) == 1:
        return
    for argument in app.assemble_argument_collection(parse_docstring=True):
        if argument.name != "*":
            text = argument.parameter.help or ""
            assert text[:1].isupper() or text[:1] == '"', argument.name
            assert text.endswith("."), argument.name


def test_overview_lists_the_commands_in_the_order_of_the_steps(cli: Cli) -> None:
    code, out, _ = cli("--help")
    places = [out.index(f"│ {name} {text[:12]}") for name, text in COMMANDS.items()]
    assert (code, places) == (0, sorted(places))
    assert cli() == (0, out, "")


def test_version_and_completion(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("--version") == (0, unmemorize.__version__, "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", "/bin/bash")
    script = make_app().generate_completion(shell="bash")
    assert "merge-statistics" in script
    assert "--install-completion" in cli("--help")[1]


@pytest.mark.parametrize("code", ["import unmemorize", "from unmemorize.cli import main; main([])"])
def test_nothing_slow_is_loaded_before_it_is_needed(code: str) -> None:
    slow = {"torch", "diffusers", "transformers", "numpy", "scipy", "matplotlib", "safetensors"}
    check = f"{code}\nimport sys\nsys.exit(' '.join({slow!r} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("as_json", [False, True])
def test_a_path_that_is_no_text_is_printed_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    """A terminal of UTF-8 would refuse it else. JSON has an escape for it."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    run = compared_run(folder)
    run.write("compare.html", "")
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(
        sys, "argv", ["unmemorize", "status", *["--json"] * as_json, str(run.folder)]
    )
    with pytest.raises(SystemExit, match="0"):
        run_command_line()
    out.flush()
    written = out.buffer.getvalue()
    if as_json:
        assert json.loads(written)["run"] == str(run.folder)
    else:
        assert os.fsencode(run.folder / "compare.html") in written


def test_a_mistyped_command_gets_a_suggestion_without_loading_the_others() -> None:
    check = (
        "import sys; from unmemorize.cli import main\n"
        "assert main(['localise']) == 2; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.returncode == 0
    assert "localise: unknown command. Did you mean localize?" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("localize",), "error: --run or -o is missing. All options: unmemorize localize --help"),
        (("nonsense",), "nonsense: unknown command. All commands: unmemorize --help"),
        (("report",), "error: RUN is missing."),
        (("report", "run", "--pack"), "error: --pack needs a value."),
        (("report", "--nonsense"), "Unknown option: --nonsense"),
        (("report", "run", "--nonsense"), "Unknown option: --nonsense"),
        (("export", "check-point"), "Did you mean checkpoint? All commands: unmemorize export -"),
        (("localize", "-o", "run", "--theta", "high"), "high"),
        (("localize", "-o", "run", "--criterion", "both"), "both"),
        (("statistics", "-o", "s.safetensors", "--batch", "0"), "--batch"),
        (("detect", "-o", "run", "--workers", "0"), "--workers"),
        (("ui", "--port", "99999"), "--port"),
        (("neurons", "union", "one.json", "-o", "out.json"), "two or more files are needed"),
        (("evaluate", "run", "--descriptor-side", "7"), "--descriptor-side"),
    ],
)
def test_wrong_usage_has_exit_code_2(cli: Cli, words: tuple[str, ...], message: str) -> None:
    code, out, err = cli(*words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("statistics", "--prompts", "{folder}/unmemorized.txt"),
            "--prompts is given, but no file for the result. Name one with -o.",
        ),
        (("statistics", "--shard", "1/2"), "--shard is given, but no file for the result"),
        (("statistics", "--raw", "{tmp}/raw"), "--raw is given, but no file for the result"),
        (("threshold", "--prompts", "{folder}/unmemorized.txt"), "--prompts is given, but no"),
        (("statistics", "-o", "{tmp}/s.safetensors", "--shard", "1/2"), "no prompts given"),
        (("statistics", "-o", "{tmp}/s.safetensors", "--raw", "{tmp}/raw"), "no prompts given"),
        (
            (
                *("threshold", "-o", "{tmp}/t.json", "--reduction", "prompts", "--max-fpr", ".1"),
                *("--prompts", "{folder}/unmemorized.txt"),
            ),
            "max_fpr=0.1: reduction=prompts bounds no rate",
        ),
        (("detect", "-o", "{tmp}/run", "--tau", ".5", "--published"), "no prompts given"),
        (
            (
                *("detect", "-o", "{tmp}/run", "--prompts", "{folder}/unmemorized.txt"),
                "--tau",
                "0.428",
            ),
            "--tau 0.428: published thresholds belong to the similarity of the published code",
        ),
        (
            (
                *("localize", "-o", "{tmp}/run", "--tau", "0.428", "--similarity", "fixed"),
                *("--prompts", "{folder}/unmemorized.txt"),
                *("--statistics", "{folder}/s.safetensors"),
            ),
            "Add --published, or calibrate a threshold of your own",
        ),
        (
            (
                *("detect", "-o", "{tmp}/run", "--prompts", "{folder}/unmemorized.txt"),
                "--published",
                "--threshold",
                "{folder}/t.json",
            ),
            "--published: the threshold was calibrated with similarity=fixed, reduction=conformal",
        ),
        (
            (
                *("detect", "-o", "{tmp}/run", "--prompts", "{folder}/unmemorized.txt"),
                "--published",
                "--tau",
                ".4",
                "--protocol",
                "paper",
            ),
            "--protocol paper: --published means --protocol published. Leave one of the two out",
        ),
        (
            (
                *("threshold", "-o", "{tmp}/t.json", "--published", "--max-fpr", ".1"),
                *("--prompts", "{folder}/unmemorized.txt"),
            ),
            "--max-fpr 0.1: --published means no --max-fpr",
        ),
        (
            (
                *("localize", "-o", "{tmp}/run", "--published", "--tau", ".4"),
                *("--refinement", "bisect", "--prompts", "{folder}/unmemorized.txt"),
                *("--statistics", "{folder}/s.safetensors"),
            ),
            "--refinement bisect: --published means --refinement greedy",
        ),
        (
            (
                *("detect", "--tau", ".5", "--published"),
                *("--prompts", "{tmp}/none.txt", "-o", "{tmp}/run"),
            ),
            "none.txt: the prompt file cannot be read",
        ),
        (
            (
                *("detect", "--prompts", "{folder}/unmemorized.txt"),
                *("--threshold", "{tmp}/none.json", "-o", "{tmp}/run"),
            ),
            "none.json: the threshold file",
        ),
        (("generate", "{tmp}/run"), "run manifest cannot be read"),
        (("generate", "{folder}/run", "--steps", "0"), "steps=0: at least 1 is needed"),
        (("generate", "{folder}/run", "--seed", "-1"), "seed=-1: expected `int` >= 0"),
        (
            (
                *("detect", "-o", "{tmp}/run", "--prompts", "{folder}/unmemorized.txt"),
                "--seed",
                "99999999999999999999",
            ),
            "<= 9223372036854775807",
        ),
        (("generate", "{folder}/run", "--method", "wen"), "'wen': nothing of this name"),
        (
            ("generate", "{folder}/run", "--method", "pads", "--guard"),
            "Leave --guard or --method out",
        ),
        (
            (
                *("detect", "-o", "{tmp}/run", "--prompts", "{folder}/unmemorized.txt"),
                "--tau",
                ".5",
                "--seeds",
                "1",
            ),
            "seeds=1",
        ),
        (("statistics", "-o", "{tmp}/s", "--dtype", "half"), "dtype 'half': unknown"),
        (("statistics", "-o", "{tmp}/s", "--shard", "4/3"), "not a share of a whole"),
        (
            (
                *("threshold", "-o", "{tmp}/t.json", "--prompts", "{folder}/unmemorized.txt"),
                *("--address", "auto"),
            ),
            "--address and --gpus configure Ray actors",
        ),
        (
            (
                *("threshold", "-o", "{tmp}/t.json", "--prompts", "{folder}/unmemorized.txt"),
                *("--gpus", "1"),
            ),
            "--address and --gpus configure Ray actors",
        ),
    ],
)
def test_mistakes_get_one_sentence_and_exit_code_1(
    cli: Cli, finished: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    words = [word.format(tmp=tmp_path, folder=finished) for word in arguments]
    code, _, err = cli(*words, *model_words(finished))
    assert code == 1
    assert err.startswith("error: ")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("evaluate", "run", "--inception", "i.pt"), "Add --real FOLDER"),
        (("evaluate", "run", "--real", "r", "--inception-sha256", "0"), "the file of --inception"),
        (("verify", "pack.zip", "testbed"), "Leave the model and --base-file out"),
        (("verify", "pack.zip", "--base-file", "b"), "Leave the model and --base-file out"),
        (("import-upstream", "s.pt", "-o", "x", "--prompts", "p.csv"), "for results (.csv)"),
        (("import-upstream", "r.csv", "-o", "x", "--count", "9"), "for statistics (.pt)"),
        (("audit", "-o", "x", "--rate", ".1"), "of the images of --image"),
    ],
)
def test_an_option_that_says_nothing_without_another_is_refused(
    cli: Cli, words: tuple[str, ...], message: str
) -> None:
    code, _, err = cli(*words)
    assert code == 1
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("verify", "LONG"), "there is no such file or folder"),
        (("detect", "--prompts", "LONG", "-o", "{tmp}/run"), "unknown kind of prompt file"),
        (("detect", "-o", "LONG"), "cannot be written"),
        (("generate", "LONG"), "cannot be read"),
    ],
)
def test_a_path_of_which_no_file_can_have_the_name_is_refused(
    cli: Cli, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    named = ("x" * 480 if word == "LONG" else word.format(tmp=tmp_path) for word in words)
    code, _, err = cli(*named)
    assert code == 1
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "words",
    [
        ("detect", "-o", "{tmp}/run"),
        ("detect", "-o", "{tmp}/run", "--unmemorized"),
        ("localize", "-o", "{tmp}/run"),
        ("statistics", "-o", "{tmp}/s.safetensors"),
        ("threshold", "-o", "{tmp}/t.json"),
        ("guard", "-o", "{tmp}/g.json"),
        ("mitigate", "-o", "{tmp}/run", ""),
        ("compare", "-o", "{tmp}/run", ""),
        ("audit", "-o", "{tmp}/run"),
        ("harden", "{folder}/run/neurons.json", "-o", "{tmp}/run"),
    ],
    ids=lambda words: words[0],
)
def test_an_empty_prompt_file_is_refused_before_any_work(
    cli: Cli, finished: Path, tmp_path: Path, words: tuple[str, ...], recorded: Recorded
) -> None:
    for name in ("threshold", "statistics"):
        recorded(f"unmemorize.cli._common.default_{name}")
    (tmp_path / "empty.csv").write_text("prompt,kind\n ,VM\n")
    option = () if words[-1] in ("", "--unmemorized") else ("--prompts",)
    if words[-1] == "--unmemorized":
        words = ("detect", "--prompts", "{folder}/prompts.csv", *words[1:])
    call = [word.format(tmp=tmp_path, folder=finished) for word in words if word]
    code, _, err = cli(*call, *option, tmp_path / "empty.csv", *model_words(finished))
    assert (code, "Traceback" in err) == (1, False)
    assert f"{tmp_path}/empty.csv: there is no prompt in it." in err
    assert [path.name for path in tmp_path.iterdir()] == ["empty.csv"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            (
                *("localize", "--prompts", "{folder}/prompts.csv", "-o", "{folder}/run"),
                *("--criterion", "seeds", "--seeds", "4"),
            ),
            "localization.noise.seeds = 10, now it is 4. Repeat the earlier command to resume it",
        ),
        (
            (
                *("localize", "--prompts", "{folder}/prompts.csv", "-o", "{folder}/run"),
                *("--criterion", "seeds", "--theta", "4"),
            ),
            "localization.theta = 5.0, now it is 4.0. Repeat",
        ),
        (
            ("localize", "--prompts", "{folder}/prompts.csv", "-o", "{folder}/other"),
            "other: exists and is not a run folder",
        ),
        (
            ("detect", "--prompts", "{folder}/prompts.csv", "-o", "{folder}/run"),
            "run: this is a run of kind localization, not detection",
        ),
        (
            (
                *("detect", "--prompts", "{folder}/prompts.csv", "-o", "{folder}/detected"),
                *("--detector", "seed-similarity"),
            ),
            'detector = "late-noise-magnitude", now it is "seed-similarity"',
        ),
        (
            (
                *("detect", "--prompts", "{folder}/prompts.csv", "-o", "{folder}/detected"),
                *("--seeds", "4"),
            ),
            "noise.seeds = 10, now it is 4",
        ),
        (
            ("detect", "--prompts", "{folder}/prompts.csv", "-o", "{tmp}/run", "--fdr", "2"),
            "fdr=2.0: a rate lies between 0 and 1",
        ),
        (
            ("mitigate", "{folder}/prompts.csv", "-o", "{folder}/mitigated", "--steps", "3"),
            "settings.generation.steps = 50, now it is 3",
        ),
        (
            ("mitigate", "{folder}/prompts.csv", "-o", "{tmp}/run", "--budget", "1.5"),
            "budget=1.5: a share lies between 0 and 1",
        ),
        (
            ("compare", "{folder}/prompts.csv", "-o", "{folder}/run"),
            "this is a run of kind localization, not comparison",
        ),
    ],
)
def test_another_run_is_refused_before_anything_is_calibrated(
    cli: Cli,
    occupied: Path,
    tmp_path: Path,
    words: tuple[str, ...],
    message: str,
    recorded: Recorded,
) -> None:
    for name in ("threshold", "statistics"):
        recorded(f"unmemorize.cli._common.default_{name}")
    call = [word.format(tmp=tmp_path, folder=occupied) for word in words]
    code, _, err = cli(*call, *model_words(occupied))
    assert (code, message in err, "Traceback" in err) == (1, True, False), err
    code, _, err = cli(*call, *model_words(occupied), "--new-run")
    refused_always = "--fdr" in words or "--budget" in words
    assert (code, message in err) == (1, refused_always)


def test_what_a_run_of_another_kind_lacks_is_said_with_a_way_that_works(
    cli: Cli, occupied: Path, tmp_path: Path
) -> None:
    detected, output = occupied / "detected", tmp_path / "out.csv"
    way = "unmemorize localize"
    code, _, err = cli("evaluate", detected)
    assert (code, "no images to evaluate. This run of kind detection has no" in err) == (1, True)
    assert err.endswith(f"{way} -o FOLDER, then unmemorize generate FOLDER")
    for words in (
        ("generate", detected, *model_words(occupied)),
        ("report", detected),
        ("export", "upstream-csv", detected, "-o", output),
    ):
        code, _, err = cli(*words)
        assert (code, way in err, "unmemorize generate" in err) == (1, True, False), err
    code, _, err = cli("evaluate", occupied / "run")
    assert (code, err.endswith(f"First: unmemorize generate {occupied}/run")) == (1, True)


@pytest.mark.parametrize("command", ["statistics", "threshold"])
def test_an_output_that_cannot_be_written_is_noticed_before_the_work(
    cli: Cli, tmp_path: Path, command: str, recorded: Recorded
) -> None:
    recorded("unmemorize.pipelines.Model.load")
    (tmp_path / "file").write_text("")
    code, _, err = cli(command, "-o", tmp_path / "file" / "output")
    assert (code, "output: cannot be written" in err) == (1, True)
    code, _, err = cli(command, "-o", tmp_path)
    assert (code, "is a folder. Name a file." in err) == (1, True)
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
    code, _, err = cli(command, "-o", tmp_path / "new" / "output")
    assert (code, "Model.load" in err) == (1, True)


@pytest.mark.parametrize(
    "model", ["/nowhere/model", "./model", "~/no-model-here", "model/", "a/b/c", "models/one"]
)
def test_a_mistyped_folder_is_not_taken_for_a_hub_id(
    cli: Cli, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, recorded: Recorded
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    load = recorded("unmemorize.pipelines.Model.load")
    code, _, err = cli("statistics", "-m", model, "-o", tmp_path / "s.safetensors")
    assert (code, f"{model}: there is no such folder." in err, load) == (1, True, {})
    code, _, err = cli("statistics", "-m", "owner/name", "-o", tmp_path / "s.safetensors")
    assert (code, load["positional"]) == (1, ("owner/name",))


def test_a_hub_id_that_is_not_on_this_machine_is_named(cli: Cli, tmp_path: Path) -> None:
    words = ("statistics", "--model", "nowhere", "--local-files-only")
    code, _, err = cli(*words, "-o", tmp_path / "s.safetensors")
    assert (code, "nowhere: the model cannot be loaded" in err) == (1, True)


def test_ctrl_c_says_how_to_resume(
    cli: Cli, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unmemorize.cli.statistics.compute_statistics", interrupt)
    words = ("statistics", "--model", finished / "model", "-o", tmp_path / "s.safetensors")
    code, _, err = cli(*words, "--prompts", finished / "unmemorized.txt")
    assert (code, "the same command resumes there" in err) == (130, True)


def test_the_exit_code_of_a_command_is_passed_on(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [Finding("copies", 0.9, "all", "> 0.8", True)]
    monkeypatch.setattr("unmemorize.cli.testbed.run_check", lambda *_, **__: findings)
    monkeypatch.setattr("unmemorize.pipelines.Model.load", lambda *_, **__: None)
    code, out, _ = cli("testbed", "check")
    assert (code, "ok" in out) == (0, True)
    findings.append(Finding("neurons", 0.1, "all", "> 0.8", False))
    code, out, _ = cli("testbed", "check")
    assert (code, "FAILS" in out) == (1, True)
    assert main(["--help"]) == 0


def test_failures_are_reported_after_everything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run.open(tmp_path / "run", AnyRun(), inputs=Inputs(fingerprint="f"), model="m", items=2)
    tallies = [
        Tally(run, "images", 1, {3: "ValueError: x"}, 2),
        Tally(run, "images", 1, {}, 2),
        Tally(run, "images", 2, {}, 2),
    ]
    with pytest.raises(
        RunError, match=r"1 of 2 prompts failed, such as number 3 \(ValueError: x\)"
    ):
        report_missing(*tallies)
    assert capsys.readouterr().out.count("the other shards do the rest") == 1


def test_options_of_the_model_reach_the_loader(
    cli: Cli, tmp_path: Path, recorded: Recorded
) -> None:
    load = recorded("unmemorize.pipelines.Model.load")
    flags = ("--device", "meta", "--dtype", "bfloat16", "--revision", "v2", "--variant", "fp16")
    more = ("--local-files-only", "--value-layers", "mid.*.to_v")
    expected = {
        "device": "meta",
        "dtype": "bfloat16",
        "revision": "v2",
        "variant": "fp16",
        "local_files_only": True,
        "value_layers": "mid.*.to_v",
        "loras": {},
        "positional": ("owner/name",),
    }
    assert cli("detect", "-o", tmp_path, "-m", "owner/name", *flags, *more)[0] == 1
    assert load == expected
    assert cli("verify", "x.json", "owner/name", *flags, *more)[0] == 1
    assert load == expected
    assert cli("detect", "-o", tmp_path)[0] == 1
    assert load == {
        "device": "auto",
        "dtype": "auto",
        "revision": None,
        "variant": None,
        "local_files_only": False,
        "value_layers": None,
        "loras": {},
        "positional": ("testbed",),
    }


def test_options_of_statistics_and_threshold_reach_the_library(
    cli: Cli, finished: Path, tmp_path: Path, recorded: Recorded
) -> None:
    model = model_words(finished)
    ordinary = ("--prompts", finished / "unmemorized.txt")
    compute = recorded("unmemorize.cli.statistics.compute_statistics")
    flags = ("--batch", 5, "--raw", tmp_path / "raw", "--shard", "2/4", "--workers", 3)
    assert cli("statistics", *model, *ordinary, "-o", tmp_path / "s", *flags)[0] == 1
    assert (compute["batch"], compute["raw"]) == (5, tmp_path / "raw")
    texts = (finished / "unmemorized.txt").read_text().splitlines()
    assert [prompt.text for prompt in compute["positional"][1]] == texts[1::4]
    assert isinstance(compute["execution"].engine, Workers)
    calibrate = recorded("unmemorize.cli.threshold.calibrate_threshold")
    rule = ("--reduction", "prompts", "--deviations", 2)
    seeds = ("--seeds", 3, "--seed", 5, "--protocol", "paper", "--guidance", 4)
    other = ("--detector", "noise-magnitude")
    assert cli("threshold", *model, *ordinary, "-o", tmp_path / "t", *rule, *seeds, *other)[0] == 1
    assert calibrate["detector"] == "noise-magnitude"
    chosen = calibrate["calibration"]
    assert (chosen.reduction, chosen.deviations, chosen.max_fpr) == ("prompts", 2.0, None)
    noise = calibrate["settings"]
    assert (noise.seeds, noise.seed, noise.protocol, noise.guidance) == (3, 5, "paper", 4.0)
    assert isinstance(calibrate["execution"].engine, InProcess)
    assert cli("threshold", *model, *ordinary, "-o", tmp_path / "t", "--max-fpr", 0.2)[0] == 1
    assert calibrate["calibration"] == Calibration(max_fpr=0.2)


def test_options_of_detection_and_localization_reach_the_library(
    cli: Cli, finished: Path, tmp_path: Path, recorded: Recorded
) -> None:
    model = model_words(finished)
    inputs = ("--prompts", finished / "prompts.csv", "--threshold", finished / "t.json")
    detect = recorded("unmemorize.cli.detect.detect_all")
    flags = ("--stop", "never", "--batch", 7, "--shard", "1/2", "--engine", "ray", "--gpus", 0.5)
    assert cli("detect", *model, *inputs, "-o", tmp_path / "d", *flags)[0] == 1
    assert (detect["stop"], detect["batch"]) == ("never", 7)
    assert detect["execution"].shard == Shard(1, 2)
    assert isinstance(detect["execution"].engine, RayActors)
    localize = recorded("unmemorize.cli.localize.localize_all")
    words = (*localize_words(finished), "--shard", "2/2", "--workers", 2)
    assert cli(*words, "-o", tmp_path / "run")[0] == 1
    assert localize["execution"].shard == Shard(2, 2)
    assert isinstance(localize["execution"].engine, Workers)
    assert localize["settings"].noise.seeds == 10
    assert localize["settings"].criterion == "seeds"


def test_options_of_generation_reach_the_library(
    cli: Cli, finished: Path, tmp_path: Path, recorded: Recorded
) -> None:
    generate = recorded("unmemorize.cli.generate.generate_all")
    (tmp_path / "animals.txt").write_text("a cat\n")
    model = model_words(finished)
    numbers = ("--images", 3, "--seed", 9, "--steps", 4, "--guidance", 2, "--scale", 0.5)
    others = ("--batch", 6, "--only", "VM", "--format", "jpeg", "--neurons", "initial")
    prompts = ("--prompts", tmp_path / "animals.txt", "--shard", "1/3")
    assert cli("generate", finished / "run", *model, *numbers, *others, *prompts)[0] == 1
    images, settings = generate["positional"][2:]
    assert (settings.images, settings.seed, settings.steps) == (3, 9, 4)
    assert (settings.guidance, settings.scale, settings.batch) == (2.0, 0.5, 6)
    assert (images.neurons.name, images.only, images.format) == ("initial", "VM", "jpeg")
    assert ([prompt.text for prompt in images.prompts], images.label) == (["a cat"], "animals")
    assert generate["execution"].shard == Shard(1, 3)
    assert cli("generate", finished / "run", *model)[0] == 1
    images, settings = generate["positional"][2:]
    assert (images.neurons.name, settings.steps, settings.guidance) == ("original", 50, 7.0)


def test_methods_of_generation_reach_the_library(
    cli: Cli, finished: Path, tmp_path: Path, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets: list[str] = []

    def original(run: Run, *arguments: Any, **_: Any) -> Tally:
        sets.append(arguments[1].neurons.name)
        return Tally(run, "images", 0, {}, 0)

    monkeypatch.setattr("unmemorize.cli.generate.generate_all", original)
    fitted = recorded("unmemorize.cli.generate.generate_fitted")
    (tmp_path / "animals.txt").write_text("a cat\n")
    options = (*model_words(finished), "--images", 3, "--format", "jpeg", "--shard", "1/3")
    words = ("generate", finished / "run", "--method", "embedding=5", *options)
    assert cli(*words, "--only", "TM")[0] == 1
    assert (fitted["only"], fitted["prompts"], fitted["label"]) == ("TM", [], "")
    assert cli(*words, "--prompts", tmp_path / "animals.txt")[0] == 1
    method, settings = fitted["positional"][2:]
    assert (method.name, method.strength, settings.images) == ("embedding", 5.0, 3)
    assert sets == ["original", "original"]
    assert ([prompt.text for prompt in fitted["prompts"]], fitted["label"]) == (
        ["a cat"],
        "animals",
    )
    assert (fitted["only"], fitted["image_format"]) == (None, "jpeg")
    assert fitted["execution"].shard == Shard(1, 3)
    assert fitted["ordinary"] == threshold_captions(Model.load(str(finished / "model")))[:320]


def test_only_the_bundled_model_has_defaults_of_its_own(
    cli: Cli, finished: Path, tmp_path: Path, recorded: Recorded
) -> None:
    """Criterion, steps and guidance: its own for the bundled model, else the paper's."""
    localize = recorded("unmemorize.cli.localize.localize_all")
    calibrate = recorded("unmemorize.cli.threshold.calibrate_threshold")
    assert cli("localize", "-o", tmp_path / "bundled", "--device", "cpu")[0] == 1
    assert localize["settings"].criterion == "seeds"
    assert cli("threshold", "-o", tmp_path / "t.json", "--device", "cpu")[0] == 1
    texts = [prompt.text for prompt in calibrate["positional"][1]]
    assert texts == list(unmemorize.testbed.captions("calibration"))
    assert calibrate["calibration"] == Calibration()
    given = ("--tau", 0.5, "--similarity", "published")
    assert cli("localize", "-o", tmp_path / "given", "--device", "cpu", *given)[0] == 1
    assert localize["settings"].criterion == "auto"
    words = [word for word in localize_words(finished) if word not in ("--criterion", "seeds")]
    assert cli(*words, "-o", tmp_path / "other")[0] == 1
    assert localize["settings"].criterion == "auto"


def test_a_command_makes_one_model(
    cli: Cli, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Model] = []
    initialize = Model.__init__

    def count(self: Model, *arguments: Any, **named: Any) -> None:
        made.append(self)
        initialize(self, *arguments, **named)

    monkeypatch.setattr(Model, "__init__", count)
    code, out, _ = cli(*localize_words(finished), "-o", tmp_path / "run")
    assert (code, PLANTED_PROMPT in out) == (0, True)
    assert len(made) == 1
    made.clear()
    model = model_words(finished)
    neurons = finished / "run" / "neurons.json"
    code, out, _ = cli("export", "checkpoint", neurons, *model, "-o", tmp_path / "edited")
    assert (code, f"Next: unmemorize verify {tmp_path}/edited" in out) == (0, True)
    assert len(made) == 1
    made.clear()
    words = ("verify", tmp_path / "edited", finished / "model", "--device", "cpu")
    code, out, _ = cli(*words)
    neuron_count = len(NeuronFile.load(neurons).neurons)
    noun = "value neuron" if neuron_count == 1 else "value neurons"
    assert (code, f"{neuron_count} {noun} switched off: changed as it should be" in out) == (
        0,
        True,
    )
    assert len(made) == 1


def test_libraries_that_load_models_are_quiet(cli: Cli) -> None:
    level = transformers.logging.get_verbosity()
    try:
        transformers.logging.set_verbosity_info()
        assert cli("report", "--help")[0] == 0
        assert transformers.logging.get_verbosity() == logging.ERROR
    finally:
        transformers.logging.set_verbosity(level)


def test_what_libraries_will_drop_is_shown_only_to_whoever_uses_it(
    cli: Cli, recwarn: pytest.WarningsRecorder
) -> None:
    assert cli("report", "--help")[0] == 0
    for module in ("diffusers.pipelines.some", "transformers.some", "of.a.user"):
        warnings.warn_explicit("goes", FutureWarning, f"{module}.py", 1, module)
    assert [warning.filename for warning in recwarn] == ["of.a.user.py"]


def test_a_missing_gradio_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "unmemorize.ui._serve", None)
    code, _, err = cli("ui")
    assert (code, "pip install 'unmemorize[ui]'" in err) == (1, True)


def test_shards_of_a_mitigation_wait_and_the_first_writes_what_all_have_worked_for(
    cli: Cli, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executions: list[Execution] = []
    delivered: list[Path] = []

    def mitigated(*_: object, execution: Execution, **__: object) -> MitigationResult:
        executions.append(execution)
        return MitigationResult(budget=0.1, outcomes=())

    def deliver(run: Run, *_: object, **__: object) -> Delivery:
        delivered.append(run.folder)
        return Delivery(run.folder / "report.html", Exported({}, ()), "", None)

    monkeypatch.setattr("unmemorize.cli.mitigate.mitigate_all", mitigated)
    monkeypatch.setattr("unmemorize.cli.mitigate.deliver", deliver)
    files = ("--threshold", finished / "t.json", "--statistics", finished / "s.safetensors")
    words = ("mitigate", finished / "prompts.csv", *model_words(finished), *files)
    for number in (1, 2):
        run = tmp_path / f"{number}"
        code, out, _ = cli(*words, "-o", run, "--shard", f"{number}/2")
        assert code == 0
        assert ("Shard 2 of 2 is done. The first one writes" in out) == (number == 2)
        code, out, _ = cli(*words, "-o", run, "--shard", f"{number}/2", "--json")
        assert (code, json.loads(out)["run"]) == (0, str(run))
    assert json.loads(out) == {"run": str(tmp_path / "2"), "shard": "2/2"}
    assert delivered == [tmp_path / "1"] * 2
    assert {execution.patience for execution in executions} == {1800}
    assert [str(execution.shard) for execution in executions] == ["1-of-2"] * 2 + ["2-of-2"] * 2


@pytest.mark.parametrize(
    ("command", "count"), [("mitigate", "3 suspects, if all"), ("compare", "Suspects: 3.")]
)
def test_suspects_of_the_same_text_count_once(
    cli: Cli, tmp_path: Path, caplog: pytest.LogCaptureFixture, command: str, count: str
) -> None:
    (tmp_path / "suspects.txt").write_text("a red cat\na dog\na red cat\na bird\n")
    suspects = tmp_path / "suspects.txt"
    code, out, _ = cli(command, suspects, "--quick", "--dry-run", "-o", tmp_path / "run")
    assert (code, count in out) == (0, True)
    assert "'a red cat' (2 times)" in caplog.text
