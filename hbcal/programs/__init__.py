"""The probabilistic programs: one screen each, equations in the docstring, `y=None` simulates."""
