"""A star's measurements when one or two of them may be blunders, its true value integrated out under a flat prior.

A hypothesis h says which measurements of the star are outliers: same mean, 100 times the variance. With
w_s = 1 / V_s, or 1 / (100 V_s) for s in h, and r_s what is left of a measurement after its calibration,

    log p(r | h) = -1/2 [ |h| log 100 + sum_s log 2 pi V_s - log 2 pi + log W
                          + sum_s w_s r_s^2 - (sum_s w_s r_s)^2 / W ]
    log p(r)     = log sum_h q(h) p(r | h),      q(h) proportional to prod_{s in h} rate_s / (1 - rate_s),

the sum over no outlier, one, and two of three or more: q is a proper prior, cut there. The quadratic form is taken as
sum_{s<t} w_s w_t (r_s - r_t)^2 / W: two large numbers taken from each other would leave anything at all where one
measurement is all but exact, even a density that draws a chain in for good.
"""

from __future__ import annotations

from itertools import combinations

import jax.numpy as jnp
import numpy as np
from jax.nn import logsumexp

from hbcal._typing import Array, Float
from hbcal.numerics.collapse import LOG_2PI

INFLATION = 100.0  # of an outlier's variance


def most_outliers[N: (int, np.ndarray)](n_seen: N) -> N:
    """How many of a star's measurements may be outliers together: one, two of three or more.

    Args:
        n_seen: measurements of the star, or of each star, at least 1.

    Returns:
        As many numbers as were given.

    Errors:
        None.

    Example:
        >>> most_outliers(np.array([1, 2, 3, 7])).tolist()
        [1, 1, 2, 2]
    """
    return 1 + (n_seen > 2)


def hypotheses(n_seen: int) -> np.ndarray:
    """Which measurements of a star may be outliers together: none, each, each pair where there are three or more.

    Args:
        n_seen: measurements of the star, at least 1.

    Returns:
        (n_hypothesis, n_seen) of 0 and 1, dimensionless; the first row is zero.

    Errors:
        None.

    Example:
        >>> hypotheses(2).tolist()
        [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
        >>> [len(hypotheses(n)) for n in (1, 2, 3, 7)]
        [2, 3, 7, 29]
    """
    sets = [c for size in range(most_outliers(n_seen) + 1) for c in combinations(range(n_seen), size)]
    out = np.zeros((len(sets), n_seen))
    for row, each in zip(out, sets, strict=True):
        row[list(each)] = 1.0
    return out


def _share(which: np.ndarray) -> np.ndarray:
    """What is left of each measurement's weight, (n_seen, n_hypothesis)."""
    return (1.0 - which * (1.0 - 1.0 / INFLATION)).T


def outlier_log_joint(
    residual: Float[Array, "n_star n_seen"], var: Float[Array, "n_star n_seen"], log_odds: Float[Array, "n_star n_seen"]
) -> Float[Array, "n_star n_hypothesis"]:
    """log q(h) p(r | h) of every hypothesis, in the order of `hypotheses`.

    Args:
        residual: r, measurement less its calibration, label unit.
        var: noise variance without outliers, label unit squared, > 0.
        log_odds: log rate / (1 - rate) of each measurement's survey; very negative where there are no outliers.

    Returns:
        Logarithms, (n_star, n_hypothesis); their logsumexp is log p(r).

    Errors:
        None: a non-positive variance gives NaN.

    Example:
        >>> r = jnp.array([[0.0, 1.0, 0.5], [0.0, 30.0, 0.5]])  # in sd: three agree; one does not
        >>> joint = outlier_log_joint(r, jnp.ones((2, 3)), jnp.full((2, 3), -3.5))
        >>> joint.argmax(1).tolist()
        [0, 2]
    """
    which = hypotheses(residual.shape[1])
    share = _share(which)
    weight = 1.0 / var
    total = weight @ share
    part = weight / weight.sum(1)[:, None]
    one, other = np.triu_indices(residual.shape[1], 1)
    apart = part[:, one] * weight[:, other] * (residual[:, one] - residual[:, other]) ** 2
    square = apart @ (share[one] * share[other]) / (part @ share)
    const = (jnp.log(var) + LOG_2PI).sum(1)[:, None] + (which.sum(1) * np.log(INFLATION) - LOG_2PI)[None]
    prior = log_odds @ which.T
    log_p = -0.5 * (const + jnp.log(total) + square)
    return prior - logsumexp(prior, axis=1)[:, None] + log_p


def true_value(
    residual: Float[Array, "n_star n_seen"], var: Float[Array, "n_star n_seen"]
) -> tuple[Float[Array, "n_star n_hypothesis"], Float[Array, "n_star n_hypothesis"]]:
    """Mean and variance of a star's true value under every hypothesis (flat prior).

    Args:
        residual, var: as for `outlier_log_joint`.

    Returns:
        sum_s w_s r_s / W and 1 / W, label unit (squared), in the order of `hypotheses`.

    Errors:
        None.

    Example:
        >>> mean, variance = true_value(jnp.array([[0.0, 101.0]]), jnp.ones((1, 2)))
        >>> mean.round(6).tolist()
        [[50.5, 100.0, 1.0]]
    """
    share = _share(hypotheses(residual.shape[1]))
    total = (1.0 / var) @ share
    return (residual / var) @ share / total, 1.0 / total
