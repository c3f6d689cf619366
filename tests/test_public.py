"""The public names are what they are on purpose."""

import inspect
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import unmemorize

PUBLIC = (
    "Alarm AlarmError Attack AuditError AuditResult AuditSettings BundledDescriptor "
    "Calibration ClipAlignment ClosedFormEdit ClosedFormNeuronEdit CombinedEdit Comparison "
    "ComparisonCaptions ComparisonInputs ComparisonRun ComparisonSettings Delivery Detection "
    "DetectionLevel DetectionRun Detector Discoveries Edit EditError EditFile Engine "
    "Erased EvidenceError Execution ExportError FetchError FileDescriptor "
    "GenerationSettings Guard GuardThreshold HardeningResult HardeningSettings "
    "ImageAuditResult ImageSet InProcess Intervention Localization LocalizationLevel "
    "LocalizationRun LocalizationSettings Metric MetricError Mitigation MitigationError "
    "MitigationInputs MitigationResult MitigationRun MitigationSettings Model ModelError "
    "NeuronEdit NeuronError NeuronFile NeuronSet Neurons NoiseSettings OrdinaryCaptions "
    "Prompt PromptError PromptOutcome RayActors Reread Run RunError Shard Signer "
    "Statistics StatisticsError Summary Suspect TestbedError Threshold ThresholdError "
    "Trace UnfinishedError UnmemorizeError Workers arrow_table audit_edit audit_images "
    "bake calibrate_guard calibrate_threshold compare_all compute_statistics copy_scores "
    "default_guard_threshold default_statistics default_threshold deliver detect detect_all "
    "discoveries evaluate_all export_lora export_single_file fewest_discoveries generate "
    "generate_all guard harden iter_prompts load_pipeline localize localize_all "
    "memorized_region mitigate mitigate_all open_run random_control read_detections "
    "read_localizations read_metrics read_prompts summarize switch_off switch_on "
    "switched_off testbed verify verify_evidence write_evidence write_report"
)
HEAVY = ("torch", "diffusers", "transformers", "matplotlib", "numpy")


def test_the_public_names() -> None:
    assert " ".join(unmemorize.__all__) == PUBLIC
    for name in unmemorize.__all__:
        assert getattr(unmemorize, name) is not None
    assert set(dir(unmemorize)) >= set(unmemorize.__all__)
    assert unmemorize.__version__ == version("unmemorize")
    with pytest.raises(AttributeError, match="no_such_name"):
        getattr(unmemorize, "no_such_name")  # noqa: B009 -- type checkers know better


def taking_runs() -> dict[str, Any]:
    """The public functions whose first argument is a run, with what reads results of runs."""
    functions: dict[str, Any] = {}
    for name in unmemorize.__all__:
        value = getattr(unmemorize, name)
        if inspect.isfunction(value):
            functions[name] = value
        elif inspect.isclass(value) and hasattr(value, "load"):
            functions[f"{name}.load"] = value.load
    firsts = {name: [*inspect.signature(each).parameters][:1] for name, each in functions.items()}
    return {name: functions[name] for name, first in firsts.items() if first == ["run"]} | {
        "read_metrics": unmemorize.read_metrics
    }


def test_whatever_takes_a_run_takes_its_folder(tmp_path: Path) -> None:
    functions = taking_runs()
    assert {"write_report", "write_evidence", "deliver", "detect_all"} <= functions.keys()
    assert {"MitigationResult.load", "read_detections"} <= functions.keys()
    for function in functions.values():
        parameters = [*inspect.signature(function).parameters.values()][1:]
        keywords = {
            each.name: None
            for each in parameters
            if each.kind is each.KEYWORD_ONLY and each.default is each.empty
        }
        others = [None for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
        for folder in (tmp_path / "none", str(tmp_path / "none")):
            with pytest.raises(unmemorize.RunError, match=r"none/manifest\.json: the run manifest"):
                exhaust(function(folder, *others, **keywords))
        with pytest.raises(unmemorize.RunError, match=r"^int: not a run\. Give a Run, or its"):
            exhaust(function(3, *others, **keywords))


def exhaust(value: Any) -> None:
    """Let a function that yields begin."""
    if inspect.isgenerator(value):
        next(value)


def test_tracebacks_show_the_public_names_of_errors() -> None:
    assert repr(unmemorize.ModelError) == "<class 'unmemorize.ModelError'>"


def test_errors_are_one_tree() -> None:
    errors = [getattr(unmemorize, name) for name in unmemorize.__all__ if name.endswith("Error")]
    assert all(issubclass(error, unmemorize.UnmemorizeError) for error in errors)
    assert len(errors) == 17


@pytest.mark.parametrize(
    "arguments",
    [
        ("-c", "import unmemorize"),
        ("-m", "unmemorize", "--help"),
        ("-m", "unmemorize", "--version"),
    ],
)
def test_nothing_heavy_is_loaded_to_import_or_for_help(arguments: Sequence[str]) -> None:
    code = (
        "import runpy, sys, atexit\n"
        f"atexit.register(lambda: print('LOADED', *({set(HEAVY)!r} & set(sys.modules))))\n"
        "arguments = sys.argv[1:]\n"
        "sys.argv = ['unmemorize', *arguments[2:]]\n"
        "exec(arguments[1]) if arguments[0] == '-c' else "
        "runpy.run_module(arguments[1], run_name='__main__')\n"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "LOADED"


def test_the_api_reference_has_every_name() -> None:
    page = (Path(__file__).parents[1] / "docs" / "api.md").read_text(encoding="utf-8")
    documented = re.findall(r"^::: unmemorize\.(\w+)$", page, re.MULTILINE)
    errors = {name for name in unmemorize.__all__ if name.endswith("Error")}
    assert sorted(documented) == sorted({*unmemorize.__all__, "_errors"} - errors)
