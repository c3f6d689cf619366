"""The public names are what they are on purpose."""

import subprocess
import sys

import unmemorize


def test_all_is_sorted_and_complete() -> None:
    modules = ("cli", "drivers", "export", "localization", "metrics", "report", "runs", "ui")
    public = [name for name in vars(unmemorize) if not name.startswith("_") and name not in modules]
    assert sorted(unmemorize.__all__) == list(unmemorize.__all__)
    assert set(public) <= set(unmemorize.__all__) == set(dir(unmemorize))
    assert all(getattr(unmemorize, name) is not None for name in unmemorize.__all__)


def test_errors_are_one_tree() -> None:
    errors = [getattr(unmemorize, name) for name in unmemorize.__all__ if name.endswith("Error")]
    assert all(issubclass(error, unmemorize.UnmemorizeError) for error in errors)
    assert len(errors) == 11


def test_the_page_opens_before_what_takes_seconds_is_loaded() -> None:
    code = (
        "import sys, unmemorize.ui._serve; from unmemorize.cli import make_app\n"
        "make_app('ui')['ui'].assemble_argument_collection()\n"
        "print(*{'torch', 'diffusers', 'transformers', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
