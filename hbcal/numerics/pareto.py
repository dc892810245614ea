"""Pareto smoothing of importance weights, for many sets of draws at once."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from hbcal._typing import Array, Float

PRIOR_K, PRIOR_N = 0.5, 10.0  # k-hat is drawn to 0.5 as by ten draws


def smooth_weights(log_weight: Float[Array, " m"]) -> tuple[Array, Array]:
    """Importance weights whose largest fifth is replaced by quantiles of the generalised Pareto that fits them.

    The tail x_1 <= ... <= x_n, in excess of the largest weight below it, is fitted by Zhang and Stephens' estimator:
    with k(theta) = mean_i log(1 - theta x_i) and L(theta) = n [log(-theta / k) - k - 1] on a grid of theta,

        theta = sum_j theta_j softmax_j L(theta_j),   k = k(theta),   sigma = -k / theta.

    ArviZ has the same (`arviz_stats.base.array_stats.psislw`), for one set of draws at a time: a quarter of the time
    that labelling took. A test holds the two to each other.

    Args:
        log_weight: ln of the weights, up to a number; at least 25 of them.

    Returns:
        Shares, (m,), which add up to one; and k-hat, (): beyond 0.7 the draws do not stand for the density. NaN, and
        the weights as they are, where the tail is not one.

    Errors:
        None.

    Example:
        >>> share, k_hat = smooth_weights(jnp.zeros(100).at[3].set(20.0))
        >>> bool(jnp.isclose(share.sum(), 1.0)), share.shape
        (True, (100,))

    Source: Vehtari et al. 2024, JMLR 25, 72; Zhang and Stephens 2009, Technometrics 51, 316.
    """
    m = log_weight.shape[0]
    n = int(3.0 * np.sqrt(m)) if m > 225 else m // 5
    order = jnp.argsort(log_weight)
    raw = log_weight - log_weight.max()
    tail = jnp.exp(raw[order[m - n :]])
    below = jnp.exp(raw[order[m - n - 1]])
    x = tail - below
    quarter, last = x[int(n / 4 + 0.5) - 1], x[-1]
    fits = (quarter > x[0]) & jnp.isfinite(tail).all()
    quarter, last = jnp.where(fits, quarter, 1.0), jnp.where(fits, last, 1.0)
    x = jnp.where(fits, x, jnp.linspace(0.5, 1.0, n))
    n_grid = 30 + int(np.sqrt(n))
    theta = 1.0 / last + (1.0 - np.sqrt(n_grid / (np.arange(n_grid) + 0.5))) / (3.0 * quarter)
    k = jnp.log1p(-theta[:, None] * x[None, :]).mean(axis=1)
    likely = n * (jnp.log(-theta / k) - k - 1.0)
    likely = jnp.where(jnp.isfinite(likely), likely, -jnp.inf)
    at = (theta * jnp.exp(likely - logsumexp(likely))).sum()
    k_fit = jnp.log1p(-at * x).mean()
    sigma, k_hat = -k_fit / at, (n * k_fit + PRIOR_N * PRIOR_K) / (n + PRIOR_N)
    p = (np.arange(n) + 0.5) / n
    smooth = jnp.minimum(jnp.log(below + sigma / k_hat * jnp.expm1(-k_hat * np.log1p(-p))), 0.0)
    fits &= jnp.isfinite(smooth).all() & jnp.isfinite(k_hat)
    out = jnp.where(fits, raw.at[order[m - n :]].set(smooth), raw)
    return jnp.exp(out - logsumexp(out)), jnp.where(fits, k_hat, jnp.nan)
