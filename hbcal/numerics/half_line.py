"""Gaussians one of whose numbers is known not to be negative."""

from __future__ import annotations

import jax.numpy as jnp
from jax.scipy.stats import norm

from hbcal._typing import Array, Float


def not_negative(mean: Float[Array, " n"], cov: Float[Array, "n n"]) -> tuple[Array, Array]:
    """Mean and covariance of a Gaussian whose last number is known not to be negative.

        l = phi(a) / Phi(a),  a = mean_n / sd_n:   mean + k sd_n l,   cov - k k' sd_n^2 l (a + l),   k = cov_n / sd_n^2

    Args:
        mean, cov: of the Gaussian without the bound.

    Returns:
        Mean and covariance.

    Errors:
        None.

    Example:
        >>> mean, cov = not_negative(jnp.zeros(1), jnp.eye(1))  # half normal
        >>> round(float(mean[0]), 3), round(float(cov[0, 0]), 3)
        (0.798, 0.363)
    """
    sd = jnp.sqrt(cov[-1, -1])
    at, along = mean[-1] / sd, cov[:, -1] / sd
    hazard = jnp.exp(norm.logpdf(at) - norm.logcdf(at))
    return mean + along * hazard, cov - jnp.outer(along, along) * hazard * (at + hazard)
