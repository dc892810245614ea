"""A vector of independent numbers in the plate of its axis, so that results label themselves."""

from __future__ import annotations

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from hbcal._typing import AnyArray


def plated(name: str, axis: str, prior: dist.Distribution) -> AnyArray:
    """Sample a vector in the plate of its axis.

    Args:
        name: of the site.
        axis: of the plate.
        prior: independent entries, (n,).

    Returns:
        The draw, (n,); an empty vector, and no site, where there is nothing to sample.

    Errors:
        None.

    Example:
        >>> plated("floor", "n_floor", dist.HalfNormal(jnp.ones(0))).shape
        (0,)
    """
    if prior.batch_shape[0] == 0:
        return jnp.zeros(0)
    with numpyro.plate(axis, prior.batch_shape[0]):
        return numpyro.sample(name, prior)
