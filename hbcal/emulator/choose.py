"""What suits training spectra where the user does not say: noise, method, and how unseen stars are to be observed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from hbcal.emulator.base import median_of
from hbcal.emulator.independent import CORRELATED, neighbours_correlate
from hbcal.emulator.processes import MOST_STARS
from hbcal.numerics.true_labels import EXACT

NOISELESS, SEEN_AT = 10000.0, 100.0  # S/N that nobody observes at, and what such spectra are tested at
LEAST = 300  # stars, to train networks on


def noiseless(spectra: Any) -> bool:
    """Whether spectra are too good to be observed, as those of a synthetic grid.

    Args:
        spectra: `hbcal.spectra.container.Spectra`.

    Returns:
        Whether their median S/N is beyond `NOISELESS`.

    Errors:
        None.

    Example:
        >>> noiseless(tiny_spectra())
        False
    """
    share = spectra.flux_err / np.abs(median_of(spectra.flux))
    share = share[np.isfinite(share)]
    return bool(share.size and np.median(share) < 1.0 / NOISELESS)


def as_seen(spectra: Any, seed: int) -> Any:
    """Spectra with noise: how well unseen spectra's labels are told hangs on it, and nobody labels spectra without.

    Args:
        spectra: `Spectra`.
        seed: of the noise.

    Returns:
        `Spectra` of S/N `SEEN_AT` or a little less.

    Errors:
        None.

    Example:
        >>> bool((as_seen(tiny_spectra(), 0).flux_err > tiny_spectra().flux_err).all())
        True
    """
    noise = np.broadcast_to(np.abs(median_of(spectra.flux)) / SEEN_AT, spectra.flux.shape)
    drawn = np.random.default_rng([seed, 23]).normal(size=noise.shape)
    err = np.hypot(spectra.flux_err, noise)
    corr, less = spectra.flux_corr.copy(), spectra.flux_err / err
    for k in range(1, min(corr.shape[2], corr.shape[1] - 1) + 1):
        corr[:, :-k, k - 1] *= np.nan_to_num(less[:, :-k] * less[:, k:])
    return replace(spectra, flux=spectra.flux + noise * drawn, flux_err=err, flux_corr=corr)


def noise_of(spectra: Any, method: str) -> tuple[str, str]:
    """Whether pixels are independent, by how what is left over of neighbours goes together.

    Of spectra without noise this is not asked: what is left over of them is what the form has wrong.

    Args:
        spectra: `Spectra`, with labels.
        method: of training; ``"process"`` is for independent pixels.

    Returns:
        ``"independent"`` or ``"correlated"``, and a sentence that says why.

    Errors:
        None.

    Example:
        >>> noise_of(tiny_spectra(), "process")
        ('independent', 'noise is independent')
    """
    if method == "process" or noiseless(spectra):
        return "independent", "noise is independent"
    alike = neighbours_correlate(spectra.flux, spectra.flux_err, spectra.labels)
    noise = "correlated" if alike > CORRELATED else "independent"
    return noise, f"residuals of neighbouring pixels correlate by {alike:.2f}: noise is {noise}"


def method_for(spectra: Any, noise: str) -> str:
    """The method for as many stars, and labels as good.

    Args:
        spectra: `Spectra`, with labels.
        noise: ``"independent"`` or ``"correlated"``.

    Returns:
        ``"process"`` for few spectra of independent pixels and exact labels, else ``"network"`` where there are `LEAST`
        stars, else ``"quadratic"``.

    Errors:
        None.

    Example:
        >>> method_for(tiny_spectra(), "independent"), method_for(tiny_spectra(), "correlated")
        ('process', 'network')
    """
    exact = np.isfinite(spectra.labels).all() and not (spectra.labels_err > EXACT * spectra.labels.std(axis=0)).any()
    if noise == "independent" and exact and len(spectra.star) <= MOST_STARS:
        return "process"
    return "network" if len(spectra.star) >= LEAST else "quadratic"
