"""Where the chains of a mixture begin: at plain mixtures of different sizes."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from hbcal.numerics.sticks import sticks
from hbcal.population_recipe import MixtureSpec


def mixture_start(value: np.ndarray, size: int, spec: MixtureSpec, seed: int) -> dict[str, Any]:
    """A mixture that knows no errors, of some size; the rest of the components are without stars.

    Args:
        value: (n_star, n_dim), scaled, missing elements in the middle.
        size: components that are fitted.
        spec: of the recipe, which says how many there are.
        seed: of the fit.

    Returns:
        Sites of `hbcal.programs.dp_mixture`.

    Errors:
        None.

    Example:
        >>> start = mixture_start(np.random.default_rng(0).normal(size=(99, 2)), 1, MixtureSpec(components=3), 0)
        >>> start["mean"].shape, start["stick"][0].round(2)
        ((3, 2), np.float64(1.0))
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    k, d = spec.components, value.shape[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a start need not be a mode
        found = GaussianMixture(size, reg_covar=1e-3, random_state=seed, max_iter=50).fit(value)
    mean = np.random.default_rng(seed).normal(size=(k, d)) * spec.mean
    covariance, weight = np.tile(spec.sd[0] ** 2 * np.eye(d), (k, 1, 1)), np.full(k, 1e-3)
    order = np.argsort(-found.weights_)
    mean[:size], covariance[:size], weight[:size] = (
        each[order] for each in (found.means_, found.covariances_, found.weights_)
    )
    sd = np.sqrt(np.einsum("kii->ki", covariance))
    corr = np.linalg.cholesky(covariance / sd[:, :, None] / sd[:, None, :])
    return {
        "background": np.array(spec.background), "concentration": np.array(1.0), "corr": corr, "mean": mean, "sd": sd,
        "stick": np.asarray(sticks(np.log(weight / weight.sum()))),
    }  # fmt: skip
