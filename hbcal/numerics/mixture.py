"""Equal-weight mixtures of Gaussians: one component per posterior draw."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr

from hbcal._typing import Array, Float


def mixture_quantiles(
    mean: Float[Array, "n_row n_draw"], sd: Float[Array, "n_row n_draw"], levels: Float[Array, " n_level"]
) -> Float[Array, "n_row n_level"]:
    """Quantiles of (1/n) sum_d N(mean_d, sd_d^2), by bisection on its distribution function.

    Args:
        mean: component means, label unit.
        sd: component standard deviations, label unit, > 0.
        levels: probabilities in (0, 1).

    Returns:
        The quantiles, exact to 1e-10 of the bracket.

    Errors:
        None: NaN in, NaN out.

    Example:
        >>> import jax.numpy as jnp
        >>> q = mixture_quantiles(jnp.zeros((1, 3)), jnp.ones((1, 3)), jnp.array([0.5, 0.975]))
        >>> [round(float(v), 4) + 0.0 for v in q[0]]
        [0.0, 1.96]
    """
    reach = 9.0
    low = jnp.broadcast_to((mean - reach * sd).min(1)[:, None], (mean.shape[0], levels.shape[0]))
    high = jnp.broadcast_to((mean + reach * sd).max(1)[:, None], low.shape)

    def halve(_, bracket):
        low, high = bracket
        middle = 0.5 * (low + high)
        below = ndtr((middle[:, None, :] - mean[:, :, None]) / sd[:, :, None]).mean(1) < levels
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low, high = jax.lax.fori_loop(0, 34, halve, (low, high))
    return 0.5 * (low + high) + 0.0 * mean.sum(1)[:, None]  # the last term carries NaN through
