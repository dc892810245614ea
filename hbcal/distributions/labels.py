"""Labels of stars as the training stars have them."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints

from hbcal._typing import AnyArray, Array
from hbcal.numerics.label_density import LabelDensity


class Labels(dist.Distribution):
    """Scaled labels x of a star, from a `LabelDensity`."""

    support = constraints.real_vector
    pytree_data_fields = ("density",)

    def __init__(self, density: LabelDensity, **kwargs: Any):
        self.density = density
        super().__init__((), (jnp.shape(density.centre)[-1],), **kwargs)

    def log_prob(self, value: AnyArray) -> Array:
        """ln p(x)."""
        return self.density.log_density(jnp.asarray(value))

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draws of x."""
        n = int(jnp.prod(jnp.array(sample_shape, int))) if sample_shape else 1
        return self.density.sample(key, n).reshape(*sample_shape, -1)
