"""How densely the training stars fill label space: a mixture of Gaussians, smooth enough for a mode and for NUTS."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np

from hbcal._pytree import pytree
from hbcal._typing import AnyArray, Array, Float

SIZES = (1, 2, 4, 8, 16, 24)  # how many components are tried
RIDGE = 1e-3  # variance added to every component, in units of a label's scatter


@pytree
class LabelDensity:
    """p(x) = sum_k w_k N(x; m_k, C_k).

    Attributes:
        log_weight: ln w_k, (n_comp,).
        centre: m_k, (n_comp, n_label).
        whiten: W_k with W_k W_k' = C_k^-1, upper triangular, (n_comp, n_label, n_label).
    """

    log_weight: AnyArray
    centre: AnyArray
    whiten: AnyArray

    def log_density(self, x: Float[Array, "*batch n_label"]) -> Array:
        """ln p(x), of scaled labels."""
        centre = jnp.asarray(self.centre, x.dtype)
        apart = x[..., None, :] - jnp.broadcast_to(centre, (*x.shape[:-1], *centre.shape))
        z = jnp.einsum("...kl,klm->...km", apart, jnp.asarray(self.whiten, x.dtype))
        log_det = jnp.log(jnp.abs(jnp.einsum("kll->kl", jnp.asarray(self.whiten)))).sum(-1)
        const = self.log_weight + log_det - 0.5 * x.shape[-1] * jnp.log(2 * jnp.pi)
        each = -0.5 * (z**2).sum(-1)
        return jax.nn.logsumexp(each + jnp.broadcast_to(const.astype(x.dtype), each.shape), axis=-1)

    def sample(self, key: Array, n: int) -> Float[Array, "n n_label"]:
        """Draws of x."""
        key_which, key_noise = jax.random.split(key)
        which = jax.random.categorical(key_which, jnp.asarray(self.log_weight), shape=(n,))
        white = jax.random.normal(key_noise, (n, self.centre.shape[1]))
        root = jnp.linalg.inv(jnp.asarray(self.whiten))
        return jnp.asarray(self.centre)[which] + jnp.einsum("nl,nlm->nm", white, root[which])


def label_density(x: np.ndarray, *, seed: int = 0) -> LabelDensity:
    """The density of labels, fitted by expectation maximisation (scikit-learn).

    Args:
        x: labels of order one, (n_star, n_label), nothing missing.
        seed: of the start.

    Returns:
        `LabelDensity` with the number of components that has the lowest BIC.

    Errors:
        None.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(2000, 1))
        >>> abs(float(label_density(x).log_density(jnp.zeros(1))) + 0.92) < 0.1
        True
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a density a little rough is a density
        sizes = [n for n in SIZES if n == 1 or n * 10 * x.shape[1] < len(x)]
        fits = [GaussianMixture(n, reg_covar=RIDGE, random_state=seed).fit(x) for n in sizes]
    found = min(fits, key=lambda fit: fit.bic(x))
    return LabelDensity(np.log(found.weights_), found.means_, found.precisions_cholesky_)
