"""The training of the bundled model: data, recipe, and the one command that runs it."""
