"""Find out what a text-to-image diffusion model has memorized, where, and take it out.

>>> import unmemorize as um
>>> neurons = um.Neurons({"down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v": [4]})
>>> len(neurons)
1
"""

from importlib.metadata import version as _version
from types import FunctionType as _FunctionType
from typing import Any as _Any

import lazy_loader as _lazy

__version__ = _version("unmemorize")

# A name is imported when it is first used (https://scientific-python.org/specs/spec-0001), because
# torch and diffusers take seconds to load. __init__.pyi lists the names.
_load, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)


def __getattr__(name: str) -> _Any:
    value = _load(name)
    if isinstance(value, _FunctionType) or (
        isinstance(value, type) and issubclass(value, BaseException)
    ):
        value.__module__ = __name__  # what tracebacks and help() show
    return value
