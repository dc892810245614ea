"""Independent pixels with known errors: each has its own weights on shared features of the labels."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hbcal._pytree import pytree
from hbcal._typing import AnyArray, Array, Float
from hbcal.emulator.base import Emulator, Known
from hbcal.emulator.full import quadratic
from hbcal.numerics.packed_spectrum import PackedSpectrum, moments, off_by, pack_spectra
from hbcal.numerics.pixel_layer import PixelLayer


@pytree
class Quadratic:
    """One, the labels, and their products."""

    def of(self, x: Float[Array, "n_label"]) -> Array:
        """phi(x)."""
        return quadratic(x)


@pytree
class Hidden:
    """One, the labels, and the last hidden layer of a network of two.

    Attributes:
        first, first_bias: (n_label, n_hidden), (n_hidden,).
        last, last_bias: (n_hidden, n_last), (n_last,).
    """

    first: AnyArray
    first_bias: AnyArray
    last: AnyArray
    last_bias: AnyArray

    def of(self, x: Float[Array, "n_label"]) -> Array:
        """phi(x)."""
        inner = jax.nn.gelu(x @ self.first + self.first_bias)
        return jnp.concatenate([jnp.ones(1), x, jnp.tanh(inner @ self.last + self.last_bias)])


@pytree
class PixelEmulator(Emulator):
    """f_p is N(w_p' phi(x + d), e_p^2 + s_p^2 + phi' U phi / b_p),  d_l = sum_a D_la psi_a(x).

    Two errors of the emulator: the weights' own, from the photon noise of the training spectra, independent from pixel
    to pixel; and that of the labels' scale, from the errors of the training labels, which shifts, stretches and bends all
    pixels together and so is not averaged away by having many: psi = (1, x, x x'), see `hbcal.numerics.label_scale`.

    Attributes:
        known: `Known`.
        layer: w, s, U and b.
        features: phi, with a method ``of``.
        scale: covariance of D, (n_label, n_term, n_label, n_term).
    """

    known: Known
    layer: PixelLayer
    features: Any
    scale: AnyArray

    def read(self, flux: np.ndarray, flux_err: np.ndarray) -> tuple[PackedSpectrum, np.ndarray]:
        """Sums over the pixels that are there; the flux as it is given."""
        packed = pack_spectra(self.layer, flux, flux_err)
        n_feature = self.layer.weights.shape[1]
        return packed, np.where(np.asarray(packed.n_seen) >= n_feature, "", "missing pixels")

    def log_likelihood(self, x: Float[Array, "n_label"], star: PackedSpectrum) -> Array:
        """ln N(spectrum; W phi, V + emulator error)."""
        chi2, log_det = self._off(x, star)
        return -0.5 * (chi2 + log_det)

    def misfit(self, x: Float[Array, "n_label"], star: PackedSpectrum) -> Array:
        """chi2 per pixel."""
        return self._off(x, star)[0] / jnp.maximum(star.n_seen, 1.0)

    def _off(self, x: Array, star: PackedSpectrum) -> tuple[Array, Array]:
        phi = self.features.of(x)
        leverage = phi @ self.layer.spread @ phi
        root = scale_root(self.scale, x)
        return off_by(moments(star, leverage, len(phi)), phi, jax.jacfwd(self.features.of)(x), root)


def scale_root(scale: AnyArray, x: Float[Array, "n_label"]) -> Array:
    """Root of the covariance, at some labels, of the emulator's label scale.

    Args:
        scale: D, (n_label, n_term, n_label, n_term); n_term of the features of `quadratic`, from the first on.
        x: scaled labels.

    Returns:
        Lower triangular, (n_label, n_label).

    Errors:
        None.

    Example:
        >>> scale_root(0.04 * jnp.eye(2).reshape(2, 1, 2, 1), jnp.zeros(2)).round(3).tolist()
        [[0.2, 0.0], [0.0, 0.2]]
    """
    terms = quadratic(x)[: scale.shape[1]]
    cov = jnp.einsum("lamb,a,b->lm", jnp.asarray(scale), terms, terms)
    return jnp.linalg.cholesky(cov + 1e-14 * jnp.eye(len(x)))
