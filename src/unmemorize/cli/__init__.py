"""The command line: one module for each command, all of them thin."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.metadata import version
from typing import Annotated

from cyclopts import App, CycloptsError, MissingArgumentError, Parameter, UnknownCommandError

from unmemorize._errors import UnmemorizeError
from unmemorize.cli._console import console, errors, print_error
from unmemorize.cli._groups import OPTIONS

FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130

COMMANDS = {
    "demo": "Stop the bundled model from copying, and bound how often it still does.",
    "mitigate": "Stop a model from copying training images, and bound how often it still does.",
    "audit": "Attack an edited model, or tell whether images are in the weights.",
    "harden": "Train a model so that attacks no longer bring memorized images back.",
    "compare": "Compare detectors and methods of the field on one model, side by side.",
    "statistics": "Measure how strongly each value neuron responds to ordinary prompts (step 1).",
    "merge-statistics": "Join activation statistics that were computed in shards.",
    "threshold": "Calibrate detection and localization on prompts that are not memorized (step 2).",
    "detect": "Tell which prompts are memorized, without localizing neurons.",
    "localize": "Find the neurons that carry the image of each memorized prompt (step 3).",
    "generate": "Generate images of memorized prompts, with and without neurons (step 4).",
    "guard": "Calibrate a guard, which stops copies while a pipeline draws them.",
    "evaluate": "Measure how much the generated images still copy (step 5).",
    "report": "Write one web page with the verdicts or the summary, and every memorized prompt.",
    "status": "Show how far a run is, while it works or afterwards.",
    "diff": "Show what changed between two runs: verdicts, settings, counts and scores.",
    "ui": "Open a page in the browser to check prompts and images, and to mend the model.",
    "verify": "Check that an artefact changes a model as it says and no more, or check a pack of "
    "evidence.",
    "import-upstream": "Read the files that the authors of Finding NeMo published.",
    "export": "Write the neurons of a run in formats that other programs load.",
    "neurons": "Show and combine neuron files.",
    "runs": "Join the shards of a run, or write its records as a table.",
    "fetch": "Download published weights and training images.",
    "testbed": "Check or calibrate the bundled model, or write its captions.",
}
"""Each command with the sentence that the overview shows; a module with the command itself is
imported when it is called, because the libraries that most of them need take seconds to load."""

GROUPS = ("export", "neurons", "runs", "fetch", "testbed")
"""Commands that consist of further commands."""

_OVERVIEW = """\
Tell whether a text-to-image diffusion model has memorized training images, find the neurons that \
do it, and take the copies out.

The command mitigate goes all the way, from suspects to an edited model. Single steps are \
statistics, threshold, detect, localize, generate, evaluate and report. Every result says how it \
was made, and the same command resumes where it was interrupted."""


def make_app(called: str = "") -> App:
    """Make the command line.

    Args:
        called: the command that is about to be called. It describes itself; the others appear with
            their sentence in `COMMANDS`, for which they need not be imported.
    """
    app = App(
        name="unmemorize",
        help=_OVERVIEW,
        version=lambda: version("unmemorize"),
        default_parameter=Parameter(negative=()),
        group_parameters=OPTIONS,
        help_format="markdown",
        result_action="return_value",
        suppress_keyboard_interrupt=False,
        print_error=False,
        exit_on_error=False,
        console=console,
    )
    for place, (name, sentence) in enumerate(COMMANDS.items()):
        attribute = "app" if name in GROUPS else "command"
        app.command(
            f"unmemorize.cli.{name.replace('-', '_')}:{attribute}",
            name=name,
            help=None if name == called else sentence,
            sort_key=place,
        )
    app.register_install_completion_command(
        help="Install completion for the current shell (bash, zsh or fish)."
    )
    for flag in ("--help", "--version", "--install-completion"):
        app[flag].group = OPTIONS
    app.meta.group_parameters = OPTIONS
    app.meta.suppress_keyboard_interrupt = False

    @app.meta.default
    def run_quietly(
        *words: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        as_json: Annotated[
            bool,
            Parameter(
                name="--json",
                help="Print the answer as one JSON document, and nothing else on standard output.",
                show_default=False,
            ),
        ] = False,
    ) -> object:
        console.quiet = as_json
        return app(words)

    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: the words after ``unmemorize``; by default those of this process.

    Returns:
        The exit code: 0; 1 for an error that a message explains; 2 for wrong usage; 130 for
        Ctrl-C.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "httpcore", "fontTools"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("huggingface_hub").propagate = False  # it writes its messages itself
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = _app_for(words).meta(words)
    except UnmemorizeError as problem:
        print_error(str(problem))
        return FAILED
    except CycloptsError as problem:
        print_error(_usage_message(problem))
        return WRONG_USAGE
    except KeyboardInterrupt:
        errors.print(
            "Stopped. Everything in the run folder is kept, and the same command resumes there."
        )
        return INTERRUPTED
    finally:
        console.quiet = False
    return code if isinstance(code, int) else 0


def _app_for(words: Sequence[str]) -> App:
    """Make the command line and import the command that is called."""
    called = words[0] if words else ""
    app = make_app(called)
    if called in COMMANDS:
        _ = app[called]  # imports its module
    if "diffusers" in sys.modules:
        from unmemorize.pipelines import quiet_libraries

        quiet_libraries()
    return app


def _usage_message(problem: CycloptsError) -> str:
    """Say what is wrong with the arguments and where help is."""
    words = problem.command_chain or ()
    call = " ".join(("unmemorize", *words))
    if isinstance(problem, UnknownCommandError):
        # the message of the library would import every command
        word = (problem.unused_tokens or [""])[0]
        names = list(problem.app or ()) if words else list(COMMANDS)
        similar = get_close_matches(word, names, n=1)
        guess = f" Did you mean {similar[0]}?" if similar else ""
        return f"{word}: unknown command.{guess} All commands: {call} --help"
    if isinstance(problem, MissingArgumentError) and problem.argument:
        asked = " or ".join(problem.argument.names)
        missing = f"{problem.keyword} needs a value." if problem.keyword else f"{asked} is missing."
        return f"{missing} All options: {call} --help"
    return f"{' '.join(str(problem).split())} All options: {call} --help"


def run() -> None:
    """Run the ``unmemorize`` command of a shell."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a path that is no UTF-8 is printed as it is
        sys.stdout.reconfigure(errors="surrogateescape")
    sys.exit(main())
