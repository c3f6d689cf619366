"""The public names are what they are on purpose."""

import unmemorize


def test_all_is_sorted_and_complete() -> None:
    modules = ("cli", "drivers", "export", "localization", "metrics", "report", "runs", "ui")
    public = [name for name in vars(unmemorize) if not name.startswith("_") and name not in modules]
    assert sorted(public) == list(unmemorize.__all__)


def test_errors_are_one_tree() -> None:
    errors = [getattr(unmemorize, name) for name in unmemorize.__all__ if name.endswith("Error")]
    assert all(issubclass(error, unmemorize.UnmemorizeError) for error in errors)
    assert len(errors) == 11
