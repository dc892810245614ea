"""The job `label`: an emulator and spectra in, label posteriors out, in the order of the input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from arviz_stats.base import array_stats

import hbcal
from hbcal._errors import HbcalError
from hbcal._typing import Array
from hbcal.emulator import Emulator, quadratic, stretched
from hbcal.numerics.importance import DOF, newton_mode, weigh_around
from hbcal.spectra.container import Spectra

BATCH, N_DRAW = 250, 256
K_HAT = 0.7  # Vehtari et al. 2024, JMLR 25, 72: beyond it the weights do not stand for the posterior
RARE = 1e-3  # of the training stars: rarer labels are outside, larger chi2 a misfit


def label_spectra(
    emulator: Emulator, spectra: Spectra, *, seed: int = 0, progress: Callable[[str], None] = lambda text: None
) -> xr.Dataset:
    """The fast posterior of the labels of every spectrum: Laplace, corrected and checked by importance sampling.

        p(labels | flux) ~ N(flux; emulator, (1 + leverage) S) p(labels)

    The mode is sought from the best training star; `N_DRAW` draws of a Student t around it are weighted by the
    posterior, smoothed (PSIS), and give the mean and the covariance.

    Args:
        emulator: trained.
        spectra: on its wavelength grid, normalised as the training spectra were.
        seed: of the draws.
        progress: told how many spectra are done.

    Returns:
        The label schema: value(star, label), covariance(star, label, label_2), chi2(star) per pixel, extrapolation(star)
        between 0 and 1 (the share of training stars in denser places), k_hat(star), reason(star), and flag(star), true
        where there is a reason not to trust the labels: ``extrapolation``, ``misfit``, ``k_hat``, or
        ``missing pixels``, for which there is no answer.

    Errors:
        HbcalError where the wavelengths are not the emulator's.

    Example:
        >>> from hbcal.emulator import train_quadratic
        >>> label_spectra(train_quadratic(tiny_spectra()), tiny_spectra())["covariance"].dims
        ('star', 'label', 'label_2')

    Source: Vehtari et al. 2024, JMLR 25, 72 (PSIS).
    """
    if not np.array_equal(spectra.wave, emulator.wave):
        raise HbcalError(
            f"The spectra have {len(spectra.wave)} pixels from {spectra.wave[0]:g} to {spectra.wave[-1]:g}, the emulator "
            f"{len(emulator.wave)} from {emulator.wave[0]:g} to {emulator.wave[-1]:g}: resample them onto its grid."
        )
    rng, n_label = np.random.default_rng(seed), len(emulator.label_names)
    whole = np.isfinite(spectra.flux).all(1)
    flux = stretched(np.where(whole[:, None], spectra.flux, 0.0))
    noise = rng.normal(size=(N_DRAW, n_label)) / np.sqrt(rng.chisquare(DOF, size=(N_DRAW, 1)) / DOF)
    begin = _starts(emulator)
    parts = []
    for first in range(0, len(flux), BATCH):
        batch = flux[first : first + BATCH]
        padded = np.pad(batch, ((0, BATCH - len(batch)), (0, 0)))  # one compiled shape
        found = jax.device_get(_around(emulator, begin, jnp.asarray(padded), jnp.asarray(noise)))
        parts.append([each[: len(batch)] for each in found])
        progress(f"labelling: {first + len(batch)} of {len(flux)} spectra")
    draws, weight, chi2, density = (np.concatenate(each) for each in zip(*parts, strict=True))
    return _dataset(emulator, spectra, whole, draws, weight, chi2, density)


def _starts(emulator: Emulator) -> tuple[Array, Array, Array]:
    """Of every kernel of the label density: where it is, its features, and ln p there."""
    at = jnp.asarray(emulator.density.centre)
    return at, jax.vmap(quadratic)(at), jax.vmap(emulator.density.log_density)(at)


@jax.jit
def _around(emulator: Emulator, begin: tuple[Array, Array, Array], flux: Array, noise: Array) -> tuple[Array, ...]:
    """Draws, log weights, chi2 and ln p(labels) at the mode of every spectrum of a batch."""
    at, features, prior = begin

    def one(seen: Array, rest: Array) -> tuple[Array, ...]:
        likely = jax.vmap(lambda phi: emulator.layer.log_density(phi, seen, rest))(features)

        def target(x: Array) -> Array:
            return emulator.log_joint(x, seen, rest)

        mode, root = newton_mode(target, at[jnp.argmax(likely + prior)])
        draws, weight = weigh_around(target, mode, root, noise)
        chi2 = emulator.layer.chi2(quadratic(mode), seen, rest)
        return draws, weight, chi2, emulator.density.log_density(mode)

    return jax.vmap(one)(*emulator.layer.compress(flux))


def _dataset(
    emulator: Emulator, spectra: Spectra, whole: np.ndarray, draws: np.ndarray, weight: np.ndarray, chi2: np.ndarray,
    density: np.ndarray,
) -> xr.Dataset:  # fmt: skip
    """Draws and weights as the label schema."""
    with np.errstate(all="ignore"):
        smooth, k_hat = array_stats.psislw(weight)
    share = np.exp(smooth)[..., None]
    share /= share.sum(1, keepdims=True)
    mean = (share * draws).sum(1)
    left = draws - mean[:, None]
    cov = np.einsum("sdl,sdm->slm", share * left, left)
    value = np.where(whole[:, None], emulator.centre + emulator.unit * mean, np.nan)
    covariance = np.where(whole[:, None, None], cov * np.outer(emulator.unit, emulator.unit), np.nan)
    outside = 1.0 - np.searchsorted(emulator.typical, density) / len(emulator.typical)
    worse = 1.0 - np.searchsorted(emulator.usual, chi2) / len(emulator.usual)
    reason = np.full(len(whole), "", dtype="<U64")
    for name, holds in (
        ("misfit", worse < RARE), ("extrapolation", outside > 1 - RARE), ("k_hat", ~(k_hat <= K_HAT)),
        ("missing pixels", ~whole),
    ):  # fmt: skip
        first = np.where((reason == "") | (name == "missing pixels"), "", np.char.add(reason, ", "))
        reason = np.where(holds, np.char.add(first, name), reason)
    blank = {"chi2": chi2 / len(emulator.wave), "extrapolation": outside, "k_hat": k_hat}
    labels = list(emulator.label_names)
    return xr.Dataset(
        {"value": (("star", "label"), value), "covariance": (("star", "label", "label_2"), covariance)}
        | {name: ("star", np.where(whole, each, np.nan)) for name, each in blank.items()}
        | {"flag": ("star", reason != ""), "reason": ("star", reason)},
        {"star": spectra.star, "label": labels, "label_2": labels},
        {"hbcal": hbcal.__version__, "method": "laplace+psis"},
    )


def write_labels(labels: xr.Dataset, path: Path) -> None:
    """Write labels as netCDF, whole or not at all.

    Args:
        labels: of `label_spectra`.
        path: an ``.nc``.

    Returns:
        Nothing.

    Errors:
        OSError where it cannot be written.

    Example:
        >>> import tempfile
        >>> from hbcal.emulator import train_quadratic
        >>> labels = label_spectra(train_quadratic(tiny_spectra()), tiny_spectra())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_labels(labels, Path(folder) / "labels.nc")
        ...     [path.name for path in Path(folder).iterdir()]
        ['labels.nc']
    """
    beside = path.with_name(path.name + ".part")
    labels.to_netcdf(beside, engine="h5netcdf")
    beside.replace(path)
