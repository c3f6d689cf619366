"""Keep libraries from talking while they load."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import transformers
from diffusers.utils import logging as diffusers_logging


def quiet_libraries() -> None:
    """Show only errors of the libraries that load models, for the whole process.

    Warnings that a later release will lack something are not shown if the libraries themselves use
    it: whoever calls a command cannot change that.
    """
    _show_errors_only()
    warnings.filterwarnings("ignore", category=FutureWarning, module="(diffusers|transformers)[.]")


def _show_errors_only() -> None:
    """Set levels of logging and switch progress bars off."""
    transformers.logging.set_verbosity_error()
    diffusers_logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    diffusers_logging.disable_progress_bar()


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Be quiet while the context lasts, then leave the libraries as they were."""
    levels = transformers.logging.get_verbosity(), diffusers_logging.get_verbosity()
    bars = (
        transformers.logging.is_progress_bar_enabled(),
        diffusers_logging.is_progress_bar_enabled(),
    )
    _show_errors_only()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(levels[0])
        diffusers_logging.set_verbosity(levels[1])
        if bars[0]:
            transformers.logging.enable_progress_bar()
        if bars[1]:
            diffusers_logging.enable_progress_bar()
