"""Measured vectors of stars that belong to Gaussian components; which star to which is summed over."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints

from hbcal._typing import Array
from hbcal.numerics.star_draws import draw_measured
from hbcal.numerics.star_mixture import log_likelihood
from hbcal.numerics.stars import Stars, lower


class StarMixture(dist.Distribution):
    """x_i ~ sum_k w_k N(mu_k, Sigma_k + S_i), of each star the elements that were measured.

    Args:
        stars: errors and what was measured, from `hbcal.numerics.star_mixture.pack_stars`; their values are not used.
        log_weight: ln w, (n_comp,).
        means: mu, (n_comp, n_dim).
        roots: lower triangular, Sigma = root root^T, (n_comp, n_dim, n_dim).
        calibration: u, (n_shift,): it is x_i + shift_i u that follows the mixture; None for stars without one.
    """

    support = constraints.independent(constraints.real, 3)
    pytree_data_fields = ("stars", "log_weight", "means", "roots", "calibration")

    def __init__(
        self, stars: Stars, log_weight: Array, means: Array, roots: Array, calibration: Array | None = None,
        **kwargs: Any,
    ):  # fmt: skip
        self.stars, self.log_weight, self.means, self.roots = stars, log_weight, means, roots
        self.calibration = jnp.zeros(stars.shift.shape[2]) if calibration is None else calibration
        super().__init__((), stars.value.shape, **kwargs)

    def log_prob(self, value: Array) -> Array:
        """ln p(x) of all stars; the value is (n_block, n_dim, n_lane), as in `Stars`."""
        return _total(self.stars.with_value(value).moved(self.calibration), self.log_weight, self.means, self.roots)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw components, true values and errors; 0 where nothing is measured."""
        keys = jax.random.split(key, sample_shape) if sample_shape else key
        still = self.stars.with_value(jnp.zeros(self.stars.value.shape)).moved(self.calibration).value

        def one(key: Array) -> Array:
            return draw_measured(key, self.stars, self.log_weight, self.means, self.roots)[1] - still

        for _ in sample_shape:
            one = jax.vmap(one)
        return one(keys)


@jax.jit  # compiled once wherever NumPyro evaluates a program step by step
def _total(stars: Stars, log_weight: Array, mean: Array, root: Array) -> Array:
    return log_likelihood(stars, log_weight, mean, lower(root @ jnp.swapaxes(root, 1, 2)))
