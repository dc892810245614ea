"""Weights fitted to labels, labels to spectra, and again: emulators of stars whose labels have errors, or are missing.

Weights fitted to noisy labels are biased: slopes too flat, curvature too small. So the true labels of the training
stars are unknowns: given the weights, star i's labels are near N(x_i, C_i), from its spectrum, what was reported of it,
and a Gaussian population; given those, the weights follow from E[phi] and E[phi phi'] (expectation maximisation). A
spectrum may tell the labels far better than what was reported does; then the scale of the labels hardly moves from
round to round; so each round also asks for the shift and stretch of each label that brings the spectra's labels onto
the reported ones (parameter-expanded EM).

Source: Dempster, Laird and Rubin 1977, JRSS B 39, 1; Liu, Rubin and Wu 1998, Biometrika 85, 755.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hbcal._typing import Array
from hbcal.emulator.full import quadratic
from hbcal.numerics.label_scale import label_scale
from hbcal.numerics.true_labels import EXACT

# Until labels move by less than this share of their sd. What still moves late is the scale of all labels, slowly: when
# they move by 0.05 it is 1.2 times as far from the truth as it claims, in the end 1.0 (giants, S/N 200).
ROUNDS, SETTLED = 40, 0.005
AT_ONCE = 64  # stars: bounds the memory of second derivatives
MOST_TERMS = 100  # of the label scale; with more labels it shifts and stretches but does not bend


class Vote(NamedTuple):
    """What spectra say of labels, a Gaussian population beside them.

    Attributes:
        at: the likeliest labels, (n_star, n_label).
        phi, slope: features there, (n_star, n_feature), and their slopes, (n_star, n_feature, n_label).
        gram: sum_p w_p w_p' / v_p, (n_star, n_feature, n_feature).
        doubt, spread: E[w w'] - E[w] E[w'], summed over a spectrum's pixels, is doubt times spread: (n_star,) and
            (n_feature, n_feature).
    """

    at: np.ndarray
    phi: np.ndarray
    slope: np.ndarray
    gram: np.ndarray
    doubt: np.ndarray
    spread: np.ndarray


class Settled(NamedTuple):
    """Weights and labels that go with each other.

    Attributes:
        layer: of weights.
        mean, cov: of the true labels, scaled, (n_star, n_label), (n_star, n_label, n_label).
        scale: covariance of the label scale, see `hbcal.numerics.label_scale`.
    """

    layer: Any
    mean: np.ndarray
    cov: np.ndarray
    scale: np.ndarray


def settled(
    features: Any, fit: Callable[[np.ndarray, np.ndarray | None, Any], Any],
    vote: Callable[[Any, np.ndarray, np.ndarray, np.ndarray], Vote],
    mean: np.ndarray, cov: np.ndarray, reported: np.ndarray, err: np.ndarray, *,
    progress: Callable[[str], None] = lambda text: None,
) -> Settled:  # fmt: skip
    """Fit weights to labels, labels to spectra, and again, until labels stay.

    Args:
        features: phi, see `hbcal.emulator.pixels`.
        fit: E[phi] and the covariance of phi of each star, None where labels are exact, and the layer before, None in
            the first round; a layer out.
        vote: a layer, labels to begin with, and mean and precision of the population in; `Vote` out.
        mean, cov: a first idea of the true labels, scaled, (n_star, n_label), (n_star, n_label, n_label).
        reported, err: labels and errors, scaled, NaN where missing; an error that is missing counts as none.
        progress: called with lines of text.

    Returns:
        `Settled`.

    Errors:
        None.

    Example:
        >>> from hbcal.emulator.pixels import Quadratic
        >>> x = np.linspace(-1.0, 1.0, 9)[:, None]
        >>> exact = settled(Quadratic(), lambda phi, spread, last: phi.sum(0), None, x, x[..., None], x, 0.0 * x)
        >>> exact.layer.round(2).tolist()  # labels without errors: no vote is asked for
        [9.0, 0.0, 3.75]
    """
    there = np.isfinite(reported)
    noise = np.where(np.isfinite(err) & (err > EXACT), err, EXACT)
    told = np.where(there, noise**-2.0, 0.0)
    value = np.where(there, reported, 0.0)
    n_term = quadratic(jnp.zeros(mean.shape[1])).shape[0]
    n_term = n_term if mean.shape[1] * n_term <= MOST_TERMS else 1 + mean.shape[1]
    layer, scale = None, np.zeros((mean.shape[1], 0) * 2)
    if there.all() and (noise <= EXACT).all():
        phi = jax.lax.map(features.of, jnp.asarray(mean), batch_size=AT_ONCE)
        return Settled(fit(np.asarray(phi), None, None), mean, cov, scale)
    for number in range(ROUNDS):
        phi, spread = moments_of(features, jnp.asarray(mean), jnp.asarray(cov))
        layer, before = fit(np.asarray(phi), np.asarray(spread), layer), mean
        centre, wide = mean.mean(axis=0), np.linalg.inv(np.cov(mean.T).reshape(mean.shape[1], -1))
        found = vote(layer, mean, centre, wide)
        mean, cov, moved, scale = _labels_given(found, centre, wide, value, told, n_term)
        off = float(np.sqrt((((mean - before) ** 2) / np.einsum("ill->il", cov)).mean()))
        progress(f"training: round {number + 1}, labels moved by {off:.3f} sd, their scale by {moved:.4f}")
        if off < SETTLED:
            break
    return Settled(layer, mean, cov, scale)


@jax.jit
def moments_of(features: Any, mean: Array, cov: Array) -> tuple[Array, Array]:
    """E[phi] and the covariance of phi, of labels N(mean, cov): to second order in the labels' sd.

    Args:
        features: phi.
        mean, cov: (n_star, n_label), (n_star, n_label, n_label).

    Returns:
        (n_star, n_feature), (n_star, n_feature, n_feature).

    Errors:
        None.

    Example:
        >>> from hbcal.emulator.pixels import Quadratic
        >>> phi, spread = moments_of(Quadratic(), jnp.zeros((1, 1)), 0.25 * jnp.ones((1, 1, 1)))
        >>> phi.tolist(), float(spread[0, 1, 1])
        ([[1.0, 0.0, 0.25]], 0.25)
    """

    def one(x: Array, c: Array) -> tuple[Array, Array]:
        slope, bend = jax.jacfwd(features.of)(x), jax.hessian(features.of)(x)
        return features.of(x) + 0.5 * jnp.einsum("flm,lm->f", bend, c), slope @ c @ slope.T

    found: tuple[Array, Array] = jax.lax.map(lambda each: one(*each), (mean, cov), batch_size=AT_ONCE)
    return found


def _labels_given(
    found: Vote, centre: np.ndarray, wide: np.ndarray, value: np.ndarray, told: np.ndarray, n_term: int
) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
    """The true labels given weights, spectra and reports; how far the label scale moved, and its covariance."""
    at, phi, slope, gram, doubt, spread = found
    terms = np.asarray(jax.vmap(quadratic)(jnp.asarray(at)))[:, :n_term]
    shift, _, scale = label_scale(terms, phi, slope, gram, doubt, told, value - at)
    info = np.swapaxes(slope, 1, 2) @ (gram + doubt[:, None, None] * spread) @ slope
    # the spectrum's own vote: without the population, moved onto the scale of the reported labels
    vote = np.einsum("ilm,im->il", info + wide, at) - wide @ centre + np.einsum("ilm,im->il", info, shift)
    precision = info + wide + told[:, :, None] * np.eye(at.shape[1])
    mean = np.linalg.solve(precision, (vote + told * value + wide @ centre)[..., None])[..., 0]
    return mean, np.linalg.inv(precision), float(np.sqrt((shift**2).mean())), scale
