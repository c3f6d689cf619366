"""Libraries that talk while they load."""

from __future__ import annotations

import transformers
from diffusers.utils import logging as diffusers_logging


def quiet_libraries() -> None:
    """Nothing but errors from the libraries that load models, and no progress bars."""
    transformers.logging.set_verbosity_error()
    diffusers_logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    diffusers_logging.disable_progress_bar()
