"""What spectra that an emulator was not fitted to say of it: usual misfits, and how wide its posteriors have to be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import xarray as xr

from hbcal.emulator.base import Emulator, sharing
from hbcal.evaluation import WITHIN, summary
from hbcal.folder import write_npz
from hbcal.label import label_spectra
from hbcal.numerics.spread import fit_common_spread, fit_kept, fit_spread, loosened, moved_to, signs
from hbcal.numerics.tails import fit_tail
from hbcal.spectra.container import Spectra
from hbcal.spectra.store import FAULTS

MARGIN = 0.05  # that intervals may hold less than they claim, besides chance
MANY = 1000  # stars that tell each label's width apart
FLAT = 1e-9  # eigenvalue of correlations: fewer draws hold a star's weight than it has labels
N_FOLD, MOST_APART = 10, 500  # of the fitted stars: each tenth is labelled without it, until so many are


def labelled_apart(
    fit: Callable[[np.ndarray], Emulator], spectra: Spectra, rows: np.ndarray, *, star: np.ndarray | None = None,
    seed: int = 0, folder: Path | None = None, progress: Callable[[str], None] = lambda text: None,
) -> tuple[xr.Dataset, Spectra]:  # fmt: skip
    """Label stars that an emulator is fitted to, each by one that was fitted to others.

    Of some hundreds of stars those set aside are too few to say how wide posteriors have to be, and spectra's residuals
    at the true labels do not tell either: a posterior goes where the emulator's errors look like labels.

    Args:
        fit: rows of stars in, an emulator out.
        spectra: of all stars, with labels.
        rows: those fitted.
        star: number of the star that each spectrum is of, (n_star,); a star's other spectra are not fitted, either.
        seed: of the order.
        folder: of one training, where the labels of each tenth are kept, and taken from where they are there; None
            keeps none.
        progress: told how many are labelled.

    Returns:
        Labels with draws, and the spectra they are of, in that order.

    Errors:
        None; an unreadable file is as good as none.

    Example:
        >>> spectra = tiny_spectra()
        >>> labelled, at = labelled_apart(lambda rows: tiny_emulator(), spectra, np.arange(20))
        >>> labelled.sizes["star"], len(at.star)
        (20, 20)

    Source: Barber et al. 2021, Annals of Statistics 49, 486 (cross-validation in place of stars set aside).
    """
    order, parts = np.random.default_rng([seed, 23]).permutation(rows), []
    size = -(-len(order) // N_FOLD)
    n = min(len(order), -(-MOST_APART // size) * size)
    of = np.arange(len(spectra.star)) if star is None else star
    kept_for = lambda first: order[~np.isin(of[order], of[order[first : first + size]])]  # noqa: E731
    n_fit = min((len(kept_for(first)) for first in range(0, n, size)), default=0)  # one shape: one compiling
    for first in range(0, n, size):
        kept = folder and folder / f"apart{first}.npz"
        part = _part(kept)
        if part is None:
            emulator = fit(kept_for(first)[:n_fit])
            held_out = spectra.take(order[first : first + size])
            part = label_spectra(emulator, held_out, fast=True, keep_draws=True, weighted=True, seed=(seed, first))
            if kept:  # netCDF has no checksum, and this has
                write_npz(kept, {"labels": np.frombuffer(part.to_netcdf(engine="h5netcdf"), np.uint8)})
        parts.append(part)
        progress(f"labelled by emulators that were fitted to others: {min(first + size, n)} of {n} stars")
    return xr.concat(parts, "star", join="override"), spectra.take(order[:n])


def _part(kept: Path | None) -> xr.Dataset | None:
    """The labels that a file holds, if it does."""
    try:
        if kept and kept.is_file():
            with kept.open("rb") as handle, np.load(handle) as saved:
                return xr.load_dataset(BytesIO(saved["labels"].tobytes()), engine="h5netcdf")
    except FAULTS:
        pass
    return None


def with_usual(emulator: Emulator, found: xr.Dataset) -> Emulator:
    """The emulator with the misfits of spectra it was not fitted to: what counts as usual.

    Args:
        emulator: trained.
        found: labels of those spectra.

    Returns:
        The emulator.

    Errors:
        None.

    Example:
        >>> found = label_spectra(tiny_emulator(), tiny_spectra(), fast=True)
        >>> len(with_usual(tiny_emulator(), found).known.usual)
        400
    """
    usual = np.sort(found["chi2"].to_numpy())
    return replace(emulator, known=replace(emulator.known, usual=usual[np.isfinite(usual)]))  # type: ignore[type-var]


def with_spread(emulator: Emulator, found: xr.Dataset, unseen: Spectra, *, many: bool = False) -> Emulator:
    """The emulator whose posteriors are as wide as the labels of stars that no network saw ask for, in core and tails.

    Args:
        emulator: with neither spread nor tail yet.
        found: labels and draws that it, or emulators like it, gave to stars they were not fitted to.
        unseen: these stars' spectra, with labels; posteriors that are no Gaussians, as of one draw, do not count.
        many: whether stars are enough to say how wide each label has to be, whatever else is odd about a star.

    Returns:
        The emulator.

    Errors:
        None.

    Example:
        >>> spectra = tiny_spectra()
        >>> found = label_spectra(tiny_emulator(), spectra, fast=True, keep_draws=True, weighted=True)
        >>> with_spread(tiny_emulator(), found, spectra).known.spread.shape
        (7, 2)
    """
    known, unit = emulator.known, np.asarray(emulator.known.unit)
    apart, err = (unseen.labels - found["value"].to_numpy()) / unit, np.nan_to_num(unseen.labels_err) / unit
    cov = found["covariance"].to_numpy() / unit[:, None] / unit
    x = (found["value"].to_numpy() - known.centre) / unit
    told = signs(sharing(known.usual, found["chi2"].to_numpy()), found["extrapolation"].to_numpy(), x)
    cov = np.where(_whole(cov)[:, None, None], cov, np.nan)
    some = told if many else told[:, :1]
    spread = fit_spread(-apart / np.sqrt(np.einsum("sll->sl", cov) + err**2), some)
    kept = fit_kept(apart, _widened(cov, some, spread), err)
    if not many:  # the correlations that are kept decide how much joint regions hold: they come first
        spread = fit_common_spread(apart, loosened(cov, kept), err, told)
    factor = np.exp(told @ spread)
    off = factor[:, None] * (found["draws"].to_numpy() - found["value"].to_numpy()[:, None]) / unit
    ok = np.isfinite(off).all(axis=(1, 2)) & np.isfinite(cov).all(axis=(1, 2))
    off, wide, apart, err = (each[ok] for each in (off, _widened(cov, told, spread), apart, err))
    loose = loosened(wide, kept)
    tail = fit_tail(moved_to(off, wide, loose), loose, found["weight"].to_numpy()[ok], apart, err)
    known = replace(known, spread=spread, tail=tail, kept=np.asarray(kept))
    return replace(emulator, known=known)  # type: ignore[type-var]


def _widened(cov: np.ndarray, told: np.ndarray, spread: np.ndarray) -> np.ndarray:
    factor = np.exp(told @ spread)
    return factor[:, :, None] * cov * factor[:, None, :]


def _whole(cov: np.ndarray) -> np.ndarray:
    """Which covariances are of posteriors that have a width in all directions."""
    sd = np.sqrt(np.maximum(np.einsum("sll->sl", cov), 0.0))
    fine = np.isfinite(cov).all(axis=(1, 2)) & (sd > 0.0).all(axis=1)
    scale = np.where(fine[:, None], sd, 1.0)
    usual = np.where(fine[:, None, None], cov / scale[:, :, None] / scale[:, None, :], np.eye(cov.shape[1]))
    return fine & (np.linalg.eigvalsh(usual)[:, 0] > FLAT)


def told_by(emulator: Emulator, spectra: Spectra, rows: np.ndarray) -> dict[str, dict[str, float]]:
    """Scatter and coverage of the labels of stars that nothing was fitted to.

    Args:
        emulator: trained.
        spectra: with labels.
        rows: the stars.

    Returns:
        Of `hbcal.evaluation.summary`; empty of fewer than two stars.

    Errors:
        None.

    Example:
        >>> told_by(tiny_emulator(), tiny_spectra(), np.arange(1))
        {}
    """
    if len(rows) < 2:
        return {}
    there = spectra.take(rows)
    return summary(label_spectra(emulator, there, fast=True), there.labels, there.labels_err)


def failures(told: dict[str, dict[str, float]], alone: float = 1.0) -> list[str]:
    """Which intervals fail stars that nothing was fitted to, by more than a twentieth beyond what chance does.

    Args:
        told: of `hbcal.evaluation.summary`.
        alone: stars per spectrum: what spectra of one star say is no chance of its own.

    Returns:
        A phrase for each, empty where all is well.

    Errors:
        None.

    Example:
        >>> failures({"teff": {"n": 400.0, "within_68": 0.5, "within_95": 0.9}})
        ['68.3% intervals of teff hold 50% of 400 stars']
    """
    out = []
    for label, one in told.items():
        for name, p in WITHIN.items():
            if one[name] < p - MARGIN - 3.0 * np.sqrt(p * (1.0 - p) / (alone * one["n"])):
                out.append(f"{100 * p:g}% intervals of {label} hold {100 * one[name]:.0f}% of {one['n']:.0f} stars")
    return out
