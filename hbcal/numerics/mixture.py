"""Mixtures of Gaussians: a component per posterior draw, and per hypothesis about outliers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr, ndtri

from hbcal._typing import Array, Float


def mixture_quantiles(
    mean: Float[Array, "n_row n_draw"],
    sd: Float[Array, "n_row n_draw"],
    weight: Float[Array, "n_row n_draw"],
    levels: Float[Array, " n_level"],
) -> Float[Array, "n_row n_level"]:
    """Quantiles of sum_d weight_d N(mean_d, sd_d^2) / sum_d weight_d, by Newton steps kept inside a bracket.

    Args:
        mean: component means, label unit.
        sd: component standard deviations, label unit, > 0.
        weight: of the components, >= 0; a component of weight 0 has no influence.
        levels: probabilities in (0, 1).

    Returns:
        The quantiles, label unit.

    Errors:
        None: NaN in, NaN out.

    Example:
        >>> import jax.numpy as jnp
        >>> q = mixture_quantiles(jnp.zeros((1, 3)), jnp.ones((1, 3)), jnp.ones((1, 3)), jnp.array([0.5, 0.975]))
        >>> [round(float(v), 4) + 0.0 for v in q[0]]
        [0.0, 1.96]
    """
    n = (mean.shape[0], levels.shape[0])
    share = weight / weight.sum(1)[:, None]
    here = weight > 0
    low = jnp.broadcast_to(jnp.where(here, mean - 9.0 * sd, jnp.inf).min(1)[:, None], n)
    high = jnp.broadcast_to(jnp.where(here, mean + 9.0 * sd, -jnp.inf).max(1)[:, None], n)
    middle = (share * mean).sum(1)[:, None]
    width = jnp.sqrt((share * (sd**2 + (mean - middle) ** 2)).sum(1))[:, None]
    guess = jnp.clip(middle + width * ndtri(levels)[None], low, high)

    def newton(_, bracket):
        low, high, guess = bracket
        t = (guess[:, None, :] - mean[:, :, None]) / sd[:, :, None]
        excess = (share[:, :, None] * ndtr(t)).sum(1) - levels[None]
        slope = ((share / sd)[:, :, None] * jnp.exp(-0.5 * t**2)).sum(1) / 2.5066282746310002
        low, high = jnp.where(excess < 0, guess, low), jnp.where(excess < 0, high, guess)
        step = guess - excess / slope
        # ends included: a guess that is right already is an end of its own bracket, and must stay
        return low, high, jnp.where((step >= low) & (step <= high), step, 0.5 * (low + high))

    return jax.lax.fori_loop(0, 12, newton, (low, high, guess))[2]
