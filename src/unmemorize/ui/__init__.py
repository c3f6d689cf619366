"""A small web page: probe a prompt, localize its neurons, switch them, take them home. Needs ``pip install "unmemorize[ui]"``."""
