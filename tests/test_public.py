"""The public names are what they are on purpose."""

import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import pytest

import unmemorize

PUBLIC = (
    "Alarm AlarmError Attack AuditError AuditResult AuditSettings BundledDescriptor "
    "Calibration ClipAlignment ClosedFormEdit ClosedFormNeuronEdit CombinedEdit Comparison "
    "ComparisonCaptions ComparisonInputs ComparisonRun ComparisonSettings Detection "
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
    "default_guard_threshold default_statistics default_threshold detect detect_all "
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
