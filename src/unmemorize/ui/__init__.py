"""A small web page: probe a prompt, localize its neurons, switch them off, take them home.

It needs ``pip install "unmemorize[ui]"``.
"""
