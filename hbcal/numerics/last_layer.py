"""The last layer of a spectral emulator in closed form: linear in its features, with all its uncertainty."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.linalg import cho_solve, solve_triangular

from hbcal._pytree import pytree
from hbcal._typing import AnyArray, Array, Float


class Compressed(NamedTuple):
    """Spectra as their sufficient statistics: whitened pixels, turned so that n_feature of them have a mean, R phi.

    Attributes:
        r: R of the pixels that each star has, (n_star, n_feature, n_feature).
        seen: the numbers with a mean, (n_star, n_feature).
        rest: sum of squares of the others, (n_star,).
        n: pixels that are there, (n_star,).
    """

    r: AnyArray
    seen: AnyArray
    rest: AnyArray
    n: AnyArray


@pytree
class LastLayer:
    """What n_star training spectra say about the weights W (n_feature, n_pix), and a spectrum's noise.

    W ~ matrix-normal(mean, U, S): weights of two pixels are as correlated as the noise S of those pixels, so a new
    spectrum at features phi is N(mean' phi, (1 + phi' U phi) S). In whitened pixels, L^-1 with L L' = S, and after a
    rotation that leaves n_feature of them with a mean, it is N(R phi, (1 + phi' U phi) I): a spectrum is n_feature
    numbers and the square of the rest, however many pixels it has.

    Attributes:
        spread: U, (n_feature, n_feature).
        mean: of W, (n_feature, n_pix).
        noise: S, (n_pix, n_pix).
    """

    spread: AnyArray
    mean: AnyArray
    noise: AnyArray

    def compress(self, flux: Float[np.ndarray, "n_star n_pix"], cut: int) -> tuple[Compressed, Compressed]:
        """Spectra as their sufficient statistics; what is missing is integrated out.

        Args:
            flux: NaN where missing: another set of pixels asks for another factor of S, n_pix^3 / 3 operations.
            cut: the first column of a second kind.

        Returns:
            Of the columns before `cut`, and of the others given these.

        Errors:
            None; of fewer pixels than features, R has rows of zeros.

        Example:
            >>> layer = last_layer(np.ones((20, 1)), np.random.default_rng(0).normal(size=(20, 2)), 1e-6)
            >>> first, second = layer.compress(np.array([[0.0, 0.0], [0.0, np.nan]]), 1)
            >>> first.r.shape, first.n.tolist(), second.n.tolist()
            ((2, 1, 1), [1.0, 1.0], [1.0, 0.0])
        """
        n_star, n_feature, there = len(flux), len(self.mean), np.isfinite(flux)
        r, seen = np.zeros((2, n_star, n_feature, n_feature)), np.zeros((2, n_star, n_feature))
        rest, n_seen = np.zeros((2, n_star)), np.stack([there[:, :cut].sum(axis=1), there[:, cut:].sum(axis=1)])
        patterns, which = np.unique(there, axis=0, return_inverse=True)
        for k, pixels in enumerate(patterns):
            rows, n_first = np.flatnonzero(which == k), int(pixels[:cut].sum())
            root = np.linalg.cholesky(np.asarray(self.noise)[np.ix_(pixels, pixels)])
            mean = solve_triangular(root, np.asarray(self.mean)[:, pixels].T, lower=True)
            whole = solve_triangular(root, flux[np.ix_(rows, pixels)].T, lower=True).T
            for part, these in enumerate((slice(n_first), slice(n_first, None))):
                q, turned = np.linalg.qr(mean[these])
                white, n = whole[:, these], q.shape[1]
                r[part, rows, :n], seen[part, rows, :n] = turned, white @ q
                rest[part, rows] = np.maximum((white**2).sum(axis=1) - (seen[part, rows] ** 2).sum(axis=1), 0.0)
        parts = [Compressed(*map(jnp.asarray, each)) for each in zip(r, seen, rest, n_seen.astype(float), strict=True)]
        return parts[0], parts[1]

    def filled(self, flux: Float[np.ndarray, "n_star n_pix"]) -> np.ndarray:
        """What is missing, as features that fit the other pixels and the correlation with these have it.

        Args:
            flux: of the first columns of W; NaN where missing.

        Returns:
            The same shape.

        Errors:
            None.

        Example:
            >>> rng = np.random.default_rng(0)
            >>> phi = rng.normal(size=(90, 1))
            >>> layer = last_layer(phi, phi * [[1.0, 2.0, 3.0]] + 1e-3 * rng.normal(size=(90, 3)), 1e-6)
            >>> layer.filled(np.array([[2.0, 4.0, np.nan]])).round(1).tolist()
            [[2.0, 4.0, 6.0]]
        """
        out, n_pix = flux.copy(), flux.shape[1]
        mean, noise = np.asarray(self.mean)[:, :n_pix], np.asarray(self.noise)[:n_pix, :n_pix]
        patterns, which = np.unique(np.isfinite(flux), axis=0, return_inverse=True)
        for k, there in enumerate(patterns):
            rows = np.flatnonzero(which == k)
            root = np.linalg.cholesky(noise[np.ix_(there, there)])
            phi = np.linalg.lstsq(
                solve_triangular(root, mean[:, there].T, lower=True),
                solve_triangular(root, flux[np.ix_(rows, there)].T, lower=True),
                rcond=None,
            )[0].T
            left = flux[np.ix_(rows, there)] - phi @ mean[:, there]
            along = cho_solve((root, True), noise[np.ix_(there, ~there)])
            out[np.ix_(rows, ~there)] = phi @ mean[:, ~there] + left @ along
        return out

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

    def log_density(self, features: Float[Array, " n_feature"], star: Compressed, louder: AnyArray) -> Array:
        """ln N(flux; mean' phi, (s + phi' U phi) S), less what does not hang on phi.

        Args:
            features: phi.
            star: one, either part of `compress`.
            louder: s, how much more noise it has than the training stars, ().

        Returns:
            A number.

        Errors:
            None.

        Example:
            >>> layer = last_layer(np.ones((20, 1)), np.random.default_rng(0).normal(size=(20, 2)), 1e-6)
            >>> star = Compressed(*(each[0] for each in layer.compress(np.zeros((1, 2)), 2)[0]))
            >>> float(layer.log_density(jnp.ones(1), star, jnp.ones(()))) < 0
            True
        """
        inflated = louder + self.leverage(features)
        told = jnp.asarray(star.n) * jnp.log(inflated) + self.chi2(features, star) / inflated
        return -0.5 * told

    def chi2(self, features: Float[Array, " n_feature"], star: Compressed) -> Array:
        """(flux - mean' phi)' S^-1 (flux - mean' phi).

        Args:
            features: phi.
            star: one, either part of `compress`.

        Returns:
            A number; about n where emulator and noise are right.

        Errors:
            None.

        Example:
            >>> layer = last_layer(np.ones((20, 1)), np.random.default_rng(0).normal(size=(20, 2)), 1e-6)
            >>> star = Compressed(*(each[0] for each in layer.compress(np.ones((1, 2)), 2)[0]))
            >>> bool(layer.chi2(jnp.ones(1), star) >= star.rest)
            True
        """
        return ((star.seen - star.r @ features) ** 2).sum() + jnp.asarray(star.rest)


def last_layer(features: np.ndarray, flux: np.ndarray, ridge: float, spread: np.ndarray | None = None) -> LastLayer:
    """The posterior of the weights in closed form, and the noise from what is left over.

        U = (Phi' Phi + C + ridge I)^-1,   mean = U Phi' Y,
        S = ((Y - Phi mean)' (Y - Phi mean) + mean' C mean) / (n_star - n_feature)

    Where features are known as N(Phi_i, C_i), of labels that have errors, C is the sum of the C_i, and this a step of
    expectation maximisation. Without it, what is left over looks smaller along the weights than it is: the expected
    features were told by these very spectra.

    S holds all that labels do not explain: photon noise, its correlation from pixel to pixel, and what stars of equal
    labels differ in. It is estimated once for all spectra, and taken as known.

    Args:
        features: Phi, (n_star, n_feature), of order one.
        flux: Y, (n_star, n_pix), nothing missing; at least n_pix + n_feature stars.
        ridge: prior precision of a weight in units of its pixel's noise variance.
        spread: C, (n_feature, n_feature); None where features are exact.

    Returns:
        The layer.

    Errors:
        numpy.linalg.LinAlgError when S is singular, as with fewer stars than pixels.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> phi = rng.normal(size=(500, 2))
        >>> mean = phi @ np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]])
        >>> layer = last_layer(phi, mean + rng.normal(size=(500, 3)), 1e-6)
        >>> layer.mean.shape
        (2, 3)

    Source: conjugate multivariate regression, e.g. Gelman et al., Bayesian Data Analysis, section 15.
    """
    n_feature = features.shape[1]
    more = np.zeros((n_feature, n_feature)) if spread is None else spread
    within = np.linalg.inv(features.T @ features + more + ridge * np.eye(n_feature))
    mean = within @ (features.T @ flux)
    left = flux - features @ mean
    noise = (left.T @ left + mean.T @ more @ mean) / (len(flux) - n_feature)
    np.linalg.cholesky(noise)  # here rather than with the first star
    return LastLayer(within, mean, noise)
