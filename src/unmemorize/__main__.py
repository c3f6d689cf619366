"""``python -m unmemorize`` is the ``unmemorize`` command."""

from unmemorize.cli import run

run()
