"""Whether pixels are independent, and the emulator for when they are: quadratic, network or processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hbcal._errors import HbcalError
from hbcal.emulator.base import Known
from hbcal.emulator.full import quadratic
from hbcal.emulator.hidden import N_LAST, train_hidden
from hbcal.emulator.pixels import Components, PixelEmulator, Quadratic
from hbcal.emulator.processes import train_processes
from hbcal.emulator.train_pixels import train_pixels
from hbcal.numerics.pixel_layer import FEW, pixel_layer

# Labels add up pixels. If neighbours correlate by r and others as r^distance, errors that take pixels as independent
# are too small by sqrt((1 + r) / (1 - r)): 1.4 at 0.3. Below, mere resampling; XP lies far above.
CORRELATED = 0.3
MOST_PAIRS, MOST_ROWS = 400, 1500
ALONG = 4  # pixels per weight


def neighbours_correlate(flux: np.ndarray, flux_err: np.ndarray, labels: np.ndarray) -> float:
    """How what a quadratic model of independent pixels leaves over correlates between neighbouring pixels.

        median over pixels p of corr(z_p, z_p+1),   z_ip = (f_ip - w_p' phi(x_i)) / sqrt(e_ip^2 + s_p^2)

    over stars that the weights were not fitted to. Errors of labels, too, make neighbours correlate: what any other
    labels would explain, that is, what of a star's z is along the weights, is taken out before, where pixels are more
    than four times as many as weights.

    Args:
        flux, flux_err: (n_star, n_pix), NaN where missing.
        labels: (n_star, n_label), NaN where missing.

    Returns:
        Between -1 and 1; 0 where there are too few stars to tell.

    Errors:
        None.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> white = rng.normal(size=(400, 40))
        >>> error, x = np.ones_like(white), rng.normal(size=(400, 1))
        >>> smooth = (white + np.roll(white, 1, axis=1)) / np.sqrt(2.0)
        >>> [neighbours_correlate(noise, error, x) > CORRELATED for noise in (white, smooth)]
        [False, True]
    """
    rng = np.random.default_rng(0)
    rows = np.flatnonzero(np.isfinite(labels).all(axis=1) & np.isfinite(flux).any(axis=1))
    rows = rng.permutation(rows)[:MOST_ROWS]
    n_feature = quadratic(jnp.zeros(labels.shape[1])).shape[0]
    if len(rows) < 4 * FEW * n_feature or flux.shape[1] < 2:
        return 0.0
    first = np.unique(np.linspace(0, flux.shape[1] - 2, MOST_PAIRS).astype(int))
    x = labels[rows]
    phi = np.asarray(jax.vmap(quadratic)(jnp.asarray((x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-300))))
    half = len(rows) // 2
    pixels = np.concatenate([first, first + 1])
    y, err = flux[np.ix_(rows, pixels)], flux_err[np.ix_(rows, pixels)]
    layer = pixel_layer(phi[:half], None, y[:half], err[:half])
    sd = np.sqrt(err[half:] ** 2 + layer.scatter)
    left = (y[half:] - phi[half:] @ layer.weights.T) / sd
    seen = np.isfinite(left)
    left = np.where(seen, left, 0.0)
    if flux.shape[1] > ALONG * n_feature:  # of fewer, what smooth noise looks like would be taken out as well
        across = np.where(np.isfinite(layer.scatter)[:, None], layer.weights, 0.0)
        across, _ = np.linalg.qr(across / np.nanmedian(np.where(np.isfinite(sd), sd, np.nan), axis=0)[:, None])
        left = np.where(seen, left - (left @ across) @ across.T, 0.0)
    a, b = left[:, : len(first)], left[:, len(first) :]
    both = seen[:, : len(first)] & seen[:, len(first) :]
    a, b = np.where(both, a, 0.0), np.where(both, b, 0.0)
    power = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    some = power > 0
    return float(np.median((a * b).sum(axis=0)[some] / power[some])) if some.any() else 0.0


def refuse_few_pixels(n_pix: int, n_label: int, method: str) -> None:
    """Refuse spectra of fewer pixels than features: a spectrum would tell nobody's labels.

    Args:
        n_pix, n_label: of the training spectra.
        method: ``"quadratic"``, ``"network"`` or ``"process"``, whose features are never more than pixels.

    Returns:
        Nothing.

    Errors:
        HbcalError with both numbers.

    Example:
        >>> refuse_few_pixels(4, 2, "quadratic")
        Traceback (most recent call last):
        hbcal._errors.HbcalError: 4 pixels are too few for 6 features of 2 label(s): use --noise correlated, or \
fewer labels.
    """
    bent = {"quadratic": n_label * (n_label + 1) // 2, "network": N_LAST}
    n_feature = 1 + n_label + bent[method] if method in bent else 1
    if n_pix < n_feature:
        raise HbcalError(
            f"{n_pix} pixels are too few for {n_feature} features of {n_label} label(s): use --noise correlated, or "
            "fewer labels."
        )


def train_independent(
    known: Known, mean: np.ndarray, root: np.ndarray, spectra: Any, rows: np.ndarray, method: str, *, seed: int = 0,
    like: Components | None = None, folder: Path | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[PixelEmulator, dict[str, np.ndarray]]:  # fmt: skip
    """Fit the emulator of independent pixels, and what is known of its stars' labels once their spectra are understood.

    Args:
        known: of the training stars.
        mean, root: each star's true labels as far as known, mean and root of the covariance, scaled.
        spectra: of all stars, with labels.
        rows: those to fit.
        method: ``"quadratic"``, ``"network"`` or ``"process"``.
        seed: of the network.
        like: processes: components of other stars' spectra, whose kernel and number are to be these ones' too.
        folder: where the state of the network's training is kept.
        progress: called with lines of text.

    Returns:
        The emulator, and the learning curve of its network by name; none where there is no network.

    Errors:
        HbcalError where there are fewer stars than features.

    Example:
        >>> tiny_pixels().layer.weights.shape
        (6, 6)
    """
    flux, err = spectra.flux[rows], spectra.flux_err[rows]
    reported, reported_err = (spectra.labels[rows] - known.centre) / known.unit, spectra.labels_err[rows] / known.unit
    mean, cov = mean[rows], root[rows] @ np.swapaxes(root[rows], 1, 2)
    features: Any = Quadratic()
    curves: dict[str, np.ndarray] = {}
    if method == "network":
        state = folder and folder / "hidden.npz"
        features, curves["features"] = train_hidden(mean, flux, err, seed=seed, state=state, progress=progress)
    elif method == "process":
        features = train_processes(mean, flux, err, seed=seed, like=like, progress=progress)
    n_feature = features.of(jnp.zeros(mean.shape[1])).shape[0]
    if len(rows) < FEW * n_feature:
        raise HbcalError(
            f"{len(rows)} training stars are too few for the {n_feature} features of {mean.shape[1]} labels, which "
            f"need {FEW * n_feature}: give more stars or fewer labels."
        )
    emulator, x, _ = train_pixels(known, mean, cov, reported, reported_err, flux, err, features, progress=progress)
    return replace(emulator, known=known.around(x)), curves
