"""A small web page: probe a prompt, localize its neurons, switch them, take them home. Needs ``pip install "unmemorize[ui]"``."""

from unmemorize.ui._studio import Comparison, Found, Probed, Studio

__all__ = ["Comparison", "Found", "Probed", "Studio"]
