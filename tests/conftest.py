"""Shapes are checked at every call of the numerics, the distributions and the programs; rank promotion is an error."""

import os
import sys
from pathlib import Path

import pytest
from beartype import beartype
from jaxtyping import install_import_hook


def check(function):
    """Type-check a function, but not `__init__`: JAX rebuilds the containers with tracers and placeholders."""
    return function if function.__name__ == "__init__" else beartype(function)


sys.modules["hbcal_tests_shapes"] = sys.modules[__name__]  # the hook takes the checker by name
install_import_hook(["hbcal.numerics", "hbcal.distributions", "hbcal.programs"], "hbcal_tests_shapes.check")

import jax  # noqa: E402  after the hook, as is whatever a test imports

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def catalogues():
    """The folder of the real catalogues; skips where there is none."""
    folder = Path(os.environ.get("HBCAL_TEST_DATA", "../shared/data")) / "catalogues"
    if not folder.is_dir():
        pytest.skip(f"no catalogues in {folder}; set HBCAL_TEST_DATA")
    return folder
