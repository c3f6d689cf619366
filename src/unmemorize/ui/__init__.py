"""A web page of three paths: check a prompt, check an image, mend a model.

It needs ``pip install "unmemorize[ui]"``.
"""
