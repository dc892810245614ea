"""The last layer of a spectral emulator in closed form: linear in its features, with all its uncertainty."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from hbcal._pytree import pytree
from hbcal._typing import AnyArray, Array, Float


@pytree
class LastLayer:
    """What n_star training spectra say about the weights W (n_feature, n_pix), and a spectrum's noise.

    W ~ matrix-normal(mean, U, S): weights of two pixels are as correlated as the noise S of those pixels, so a new
    spectrum at features phi is N(mean' phi, (1 + phi' U phi) S). In whitened pixels, L^-1 with L L' = S, and after a
    rotation that leaves n_feature of them with a mean, it is N(R phi, (1 + phi' U phi) I): a spectrum is n_feature
    numbers and the square of the rest, however many pixels it has.

    Attributes:
        spread: U, (n_feature, n_feature).
        r: R, (n_feature, n_feature).
        project: from pixels to the n_feature numbers, (n_pix, n_feature).
        whiten: from pixels to whitened ones, (n_pix, n_pix).
    """

    spread: AnyArray
    r: AnyArray
    project: AnyArray
    whiten: AnyArray

    def compress(self, flux: Float[Array, "n_star n_pix"]) -> tuple[Array, Array]:
        """A spectrum as its sufficient statistics.

        Args:
            flux: spectra without missing pixels.

        Returns:
            The numbers with a mean, (n_star, n_feature), and the sum of squares of the others, (n_star,).

        Errors:
            None; NaN where a pixel is.

        Example:
            >>> layer = last_layer(np.ones((20, 1)), np.random.default_rng(0).normal(size=(20, 2)), 1e-6)
            >>> [each.shape for each in layer.compress(jnp.zeros((3, 2)))]
            [(3, 1), (3,)]
        """
        seen = flux @ self.project
        white = flux @ self.whiten
        return seen, jnp.maximum((white**2).sum(-1) - (seen**2).sum(-1), 0.0)

    def leverage(self, features: Float[Array, " n_feature"]) -> Array:
        """phi' U phi: how much the weights' uncertainty adds to the noise; large away from the training stars.

        Args:
            features: phi.

        Returns:
            A number, at least 0.

        Errors:
            None.

        Example:
            >>> layer = last_layer(np.ones((20, 1)), np.random.default_rng(0).normal(size=(20, 2)), 1e-6)
            >>> round(float(layer.leverage(jnp.ones(1))), 3)  # one over the number of stars
            0.05
        """
        return features @ self.spread @ features

    def log_density(self, features: Float[Array, " n_feature"], seen: Float[Array, " n_feature"], rest: Array) -> Array:
        """ln N(flux; mean' phi, (1 + phi' U phi) S), less what does not hang on phi.

        Args:
            features: phi.
            seen, rest: of `compress`.

        Returns:
            A number.

        Errors:
            None.

        Example:
            >>> layer = last_layer(np.ones((20, 1)), np.random.default_rng(0).normal(size=(20, 2)), 1e-6)
            >>> seen, rest = layer.compress(jnp.zeros((1, 2)))
            >>> float(layer.log_density(jnp.ones(1), seen[0], rest[0])) < 0
            True
        """
        inflated = 1.0 + self.leverage(features)
        n_pix = self.project.shape[0]
        return -0.5 * (n_pix * jnp.log(inflated) + self.chi2(features, seen, rest) / inflated)

    def chi2(self, features: Float[Array, " n_feature"], seen: Float[Array, " n_feature"], rest: Array) -> Array:
        """(flux - mean' phi)' S^-1 (flux - mean' phi).

        Args:
            features: phi.
            seen, rest: of `compress`.

        Returns:
            A number; about n_pix where emulator and noise are right.

        Errors:
            None.

        Example:
            >>> layer = last_layer(np.ones((20, 1)), np.random.default_rng(0).normal(size=(20, 2)), 1e-6)
            >>> seen, rest = layer.compress(jnp.ones((1, 2)))
            >>> bool(layer.chi2(jnp.ones(1), seen[0], rest[0]) >= rest[0])
            True
        """
        return ((seen - self.r @ features) ** 2).sum() + rest


def last_layer(features: np.ndarray, flux: np.ndarray, ridge: float) -> LastLayer:
    """The posterior of the weights in closed form, and the noise from what is left over.

        U = (Phi' Phi + ridge I)^-1,  mean = U Phi' Y,  S = (Y - Phi mean)' (Y - Phi mean) / (n_star - n_feature)

    S holds all that labels do not explain: photon noise, its correlation from pixel to pixel, and what stars of equal
    labels differ in. It is estimated once for all spectra, and taken as known.

    Args:
        features: Phi, (n_star, n_feature), of order one.
        flux: Y, (n_star, n_pix), nothing missing; at least n_pix + n_feature stars.
        ridge: prior precision of a weight in units of its pixel's noise variance.

    Returns:
        The layer.

    Errors:
        numpy.linalg.LinAlgError when S is singular, as with fewer stars than pixels.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> phi = rng.normal(size=(500, 2))
        >>> mean = phi @ np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]])
        >>> layer = last_layer(phi, mean + rng.normal(size=(500, 3)), 1e-6)
        >>> layer.r.shape
        (2, 2)

    Source: conjugate multivariate regression, e.g. Gelman et al., Bayesian Data Analysis, section 15.
    """
    spread = np.linalg.inv(features.T @ features + ridge * np.eye(features.shape[1]))
    mean = spread @ (features.T @ flux)
    left = flux - features @ mean
    noise = left.T @ left / (len(flux) - features.shape[1])
    whiten = np.linalg.inv(np.linalg.cholesky(noise)).T  # flux @ whiten is white
    q, r = np.linalg.qr((mean @ whiten).T)
    return LastLayer(spread, r, whiten @ q, whiten)
