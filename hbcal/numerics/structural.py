"""A star's measurements when they depend on its true labels, and its true labels come from a Gaussian population.

Measurement j of star i reports label l(j) and responds linearly to the star's true vector z_i,

    y_i = d_i + B_i z_i + noise,    noise ~ N(0, diag V_i),    z_i ~ N(m, S),    S = C C^T,

where B_i = (rows of the identity) + beta J: the label itself, and the trends in true labels. Integrating z_i out,

    y_i ~ N(d_i + B_i m, V_i + B_i S B_i^T),

and with W = diag(1 / V) on what was seen, r = y - d - B m, A = B C and M = I + A^T W A (so |S| |S^-1 + B^T W B| = |M|),

    log p_i = -1/2 [ sum_seen log 2 pi V + log |M| + r^T W r - h^T M^-1 h ],      h = A^T W r.

M is n_label x n_label, whatever the number of measurements. With a flat z (S infinite) log |B^T W B| would stay and
pull beta towards its regression-diluted value; the population's width in M is what prevents that.
"""

from __future__ import annotations

import jax.numpy as jnp

from hbcal._typing import Array, Bool, Float
from hbcal.numerics.collapse import LOG_2PI
from hbcal.numerics.small import factor, forward, log_det


def star_log_density(
    residual: Float[Array, "n_star n_slot"],
    response: Float[Array, "n_star n_slot n_label"],
    var: Float[Array, "n_star n_slot"],
    seen: Bool[Array, "n_star n_slot"],
    root: Float[Array, "n_label n_label"],
) -> Float[Array, " n_star"]:
    """log p(y_i) of every star, its true labels integrated out over the population.

    Args:
        residual: r = y - d - B m, label units; anything finite where nothing was measured.
        response: B, how each measurement responds to the true labels.
        var: V, label unit squared, > 0 where seen and finite everywhere.
        seen: where a measurement exists; the others have exactly no influence.
        root: C, a Cholesky factor of the population's covariance, label units.

    Returns:
        Logarithms, (n_star,).

    Errors:
        None: a non-positive variance gives NaN.

    Example:
        >>> one = jnp.ones((1, 1))  # a measurement of variance 1 of a label of variance 1: N(0, 2)
        >>> log_p = star_log_density(2.0 * one, one[..., None], one, one > 0, one)
        >>> bool(jnp.isclose(log_p[0], -0.5 * (LOG_2PI + jnp.log(2.0) + 2.0)))
        True
    """
    weight = jnp.where(seen, 1.0 / var, 0.0)
    wide = response @ root
    weighted = weight[:, :, None] * wide
    inner = jnp.einsum("isk,isl->ikl", weighted, wide)
    linear = jnp.einsum("isk,is->ik", weighted, residual)
    n_label = root.shape[0]
    rows = factor(inner + jnp.eye(n_label)[None])
    explained = sum(each**2 for each in forward(rows, [linear[:, k] for k in range(n_label)]))
    noise = jnp.where(seen, jnp.log(jnp.where(seen, var, 1.0)) + LOG_2PI, 0.0).sum(1)
    return -0.5 * (noise + log_det(rows) + (weight * residual**2).sum(1) - explained)
