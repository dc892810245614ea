"""How densely the training stars fill label space: a sum of Gaussians as wide as each star's neighbours are apart."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial import cKDTree

from hbcal._pytree import pytree
from hbcal._typing import AnyArray, Array, Float


@pytree
class LabelDensity:
    """p(x) = mean over kernels c of N(x; x_c, C_c).

    Attributes:
        centre: x_c, (n_kernel, n_label).
        whiten: W_c with W_c' W_c = C_c^-1, (n_kernel, n_label, n_label).
    """

    centre: AnyArray
    whiten: AnyArray

    def log_density(self, x: Float[Array, "n_label"]) -> Array:
        """ln p(x).

        Args:
            x: labels, scaled as the training labels were.

        Returns:
            A number.

        Errors:
            None.

        Example:
            >>> density = LabelDensity(jnp.zeros((1, 1)), jnp.ones((1, 1, 1)))
            >>> round(float(density.log_density(jnp.zeros(1))), 4)
            -0.9189
        """
        z = jnp.einsum("clm,cm->cl", self.whiten, x[None, :] - self.centre)
        log_det = jnp.log(jnp.abs(jnp.einsum("cll->cl", self.whiten))).sum(-1)  # triangular
        each = log_det - 0.5 * (z**2).sum(-1) - 0.5 * x.shape[0] * jnp.log(2 * jnp.pi)
        return jax.nn.logsumexp(each) - jnp.log(float(len(self.centre)))


def label_density(x: np.ndarray, *, n_kernel: int, n_near: int, seed: int) -> LabelDensity:
    """A density from labels: kernels at stars drawn at random, each with the covariance of its nearest stars.

    Args:
        x: labels of order one, (n_star, n_label).
        n_kernel: how many kernels, at most n_star.
        n_near: how many neighbours give a kernel its covariance.
        seed: of the draw.

    Returns:
        The density.

    Errors:
        None; stars at one place get kernels of a thousandth of the unit.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(2000, 1))
        >>> density = label_density(x, n_kernel=500, n_near=50, seed=0)
        >>> abs(float(density.log_density(jnp.zeros(1))) + 0.92) < 0.2
        True

    Source: Terrell and Scott 1992, Annals of Statistics 20, 1236: the balloon and sample-point estimators.
    """
    chosen = np.random.default_rng(seed).choice(len(x), min(n_kernel, len(x)), replace=False)
    _, near = cKDTree(x).query(x[chosen], min(n_near, len(x)))
    apart = x[near] - x[chosen, None]
    cov = np.einsum("cnl,cnm->clm", apart, apart) / near.shape[1] + 1e-6 * np.eye(x.shape[1])
    return LabelDensity(x[chosen], np.linalg.inv(np.linalg.cholesky(cov)))
