"""Quadratic in the labels, the residuals of all pixels correlated: an emulator in closed form."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hbcal._errors import HbcalError
from hbcal._pytree import pytree
from hbcal._typing import Array, Float
from hbcal.emulator.base import Emulator, Known, mode_near, stretched, why_not
from hbcal.numerics.last_layer import LastLayer, last_layer

RIDGE = 1e-6


@pytree
class FullEmulator(Emulator):
    """arcsinh of the flux is N(W' phi(x), (1 + phi' U phi) S), see `hbcal.numerics.last_layer`.

    Attributes:
        known: `Known`.
        layer: W, U and S.
    """

    known: Known
    layer: LastLayer

    def read(self, flux: np.ndarray, flux_err: np.ndarray) -> tuple[Any, np.ndarray]:
        """The numbers of `LastLayer.compress`; every pixel is needed."""
        y = stretched(flux)
        whole = np.isfinite(y).all(axis=1)
        return self.layer.compress(jnp.asarray(np.where(whole[:, None], y, 0.0))), why_not(flux)

    def log_likelihood(self, x: Float[Array, " n_label"], star: Any) -> Array:
        """ln N(spectrum; W' phi, (1 + phi' U phi) S)."""
        return self.layer.log_density(quadratic(x), *star)

    def misfit(self, x: Float[Array, " n_label"], star: Any) -> Array:
        """chi2 per pixel."""
        return self.layer.chi2(quadratic(x), *star) / self.layer.project.shape[0]

    def guess(self, stars: Any) -> tuple[Array, Array]:
        """The mode near the likeliest training star."""
        return mode_near(self, stars)


def quadratic(x: Float[Array, " n_label"]) -> Array:
    """One, the labels, and their products: the features of a quadratic model of spectra.

    Args:
        x: scaled labels.

    Returns:
        (1 + n_label + n_label (n_label + 1) / 2) features.

    Errors:
        None.

    Example:
        >>> quadratic(jnp.array([2.0, 3.0])).tolist()
        [1.0, 2.0, 3.0, 4.0, 6.0, 9.0]

    Source: Ness et al. 2015, ApJ 808, 16, equation 3.
    """
    upper = np.triu_indices(x.shape[0])
    return jnp.concatenate([jnp.ones(1), x, (x[:, None] * x[None, :])[upper]])


def train_full(known: Known, x: np.ndarray, flux: np.ndarray) -> FullEmulator:
    """Fit weights and residual covariance in closed form.

    Args:
        known: of the training stars.
        x: scaled labels, (n_star, n_label).
        flux: (n_star, n_pix); stars with a missing pixel are left aside.

    Returns:
        `FullEmulator`.

    Errors:
        HbcalError where fewer whole stars are left than pixels and their correlation ask for.

    Example:
        >>> train_full(tiny_emulator().known, np.zeros((3, 2)), np.ones((3, 6)))
        Traceback (most recent call last):
        hbcal._errors.HbcalError: 3 of 3 training stars have every pixel; a quadratic emulator of 6 ...
    """
    y = stretched(flux)
    whole = np.isfinite(y).all(axis=1)
    features = np.asarray(jax.vmap(quadratic)(jnp.asarray(x[whole])))
    least = 2 * (y.shape[1] + features.shape[1])
    if len(features) < least:
        raise HbcalError(
            f"{len(features)} of {len(y)} training stars have every pixel; a quadratic emulator of {y.shape[1]} "
            f"correlated pixels needs {least}: give more stars, or --noise independent."
        )
    return FullEmulator(known, last_layer(features, y[whole], RIDGE))
