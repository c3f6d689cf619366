"""Find out what a text-to-image diffusion model has memorized, where, and take it out.

Examples:
    >>> import unmemorize as um
    >>> neurons = um.Neurons({"down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v": [4]})
    >>> len(neurons)
    1
"""

from importlib.metadata import version as _version

import lazy_loader as _lazy

# A name is imported when it is first used (https://scientific-python.org/specs/spec-0001), because
# torch and diffusers take seconds to load. __init__.pyi lists the names.
__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
__version__ = _version("unmemorize")
