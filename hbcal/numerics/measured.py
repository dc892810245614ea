"""Labels of a star that were measured otherwise than from its spectrum."""

from __future__ import annotations

import jax.numpy as jnp

from hbcal._pytree import pytree
from hbcal._typing import AnyArray, Array, Float


@pytree
class Measured:
    """Independent Gaussians of some of a star's labels.

    Attributes:
        value: scaled, (n_label,); any number where nothing was measured.
        weight: 1 / err^2, 0 where nothing was measured, (n_label,).
    """

    value: AnyArray
    weight: AnyArray

    def log_likelihood(self, x: Float[Array, " n_label"]) -> Array:
        """-1/2 sum_l weight_l (value_l - x_l)^2."""
        return -0.5 * (jnp.asarray(self.weight) * (jnp.asarray(self.value) - x) ** 2).sum()


def tightened(
    measured: Measured, centre: Float[Array, " n_label"], root: Float[Array, "n_label n_label"]
) -> tuple[Array, Array]:
    """The product of a Gaussian N(centre, root root') with what was measured.

        C' = C - C (diag(1 / weight) + C)^-1 C,   with C = root root'

    Args:
        measured: of one star.
        centre, root: of the Gaussian.

    Returns:
        Centre and root of the product, which are the Gaussian's own where nothing was measured.

    Errors:
        None.

    Example:
        >>> centre, root = tightened(Measured(jnp.ones(1), jnp.ones(1)), jnp.zeros(1), jnp.eye(1))
        >>> round(float(centre[0]), 6), round(float(root[0, 0] ** 2), 6)
        (0.5, 0.5)
    """
    weight = jnp.asarray(measured.weight)
    inner = jnp.linalg.cholesky(jnp.eye(len(centre)) + root.T @ (weight[:, None] * root))
    thin = jnp.linalg.solve(inner, root.T).T  # root inner^-T: its square is the covariance of the product
    return centre + thin @ (thin.T @ (weight * (jnp.asarray(measured.value) - centre))), thin
