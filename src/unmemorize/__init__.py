"""Find the neurons with which a text-to-image diffusion model memorizes training images, and switch them off.

>>> import unmemorize as um
>>> neurons = um.Neurons({"down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v": [4]})
>>> len(neurons)
1
"""

import lazy_loader as _lazy

# A name is imported when it is first used (https://scientific-python.org/specs/spec-0001): what most of them need takes seconds to load.
__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
