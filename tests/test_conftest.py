"""The checks that conftest switches on do catch what they are there for."""

import subprocess
import sys

import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from hbcal.numerics.collapse import collapsed_log_density, conditional_draw


def test_a_wrong_shape_is_an_error():
    with pytest.raises(TypeCheckError):
        conditional_draw(jnp.zeros(2), jnp.eye(3), jnp.zeros(3))


def test_a_wrong_rank_is_an_error():
    with pytest.raises(TypeCheckError):
        collapsed_log_density([], jnp.ones((1, 2)))


def test_silent_broadcasting_is_an_error():
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.ones((2, 3)) + jnp.ones(3)


@pytest.mark.parametrize("module", ["apply", "predict", "infer.chain", "numerics.mixture", "programs.crosscal"])
def test_double_precision_wherever_one_begins(module):
    code = f"import hbcal.{module}, jax; print(jax.numpy.zeros(1).dtype)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "float64\n"
