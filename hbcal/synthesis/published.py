"""Published grids of spectra: MARCS fluxes and PHOENIX, as they are downloaded."""

from __future__ import annotations

import gzip
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hbcal._errors import HbcalError, some
from hbcal.spectra.container import Spectra, as_spectra
from hbcal.spectra.fits_file import hdu_image, open_fits
from hbcal.synthesis.marcs import read_name

LABELS = ("teff", "logg", "m_h", "alpha_m")
PHOENIX = ("PHXTEFF", "PHXLOGG", "PHXM_H", "PHXALPHA")
EXACT = 5e-5  # error over flux: nobody observes at such S/N, and training takes the spectra as without noise
Window = tuple[float, float]


def read_marcs_fluxes(
    files: Sequence[str | Path], wave_file: str | Path, *, window: Window = (0.0, np.inf), relative_err: float = EXACT
) -> Spectra:
    """Read MARCS surface fluxes (``.flx`` or ``.flx.gz``), with the labels that their names give.

    Args:
        files: one for each star.
        wave_file: ``flx_wavelengths.vac`` or ``.vac.gz``, vacuum Angstrom.
        window: lowest and highest wavelength to keep, Angstrom.
        relative_err: error over flux; the files give none, and in the plain container a pixel without one is missing.

    Returns:
        Spectra on vacuum wavelengths in Angstrom; flux in erg/cm2/s/Angstrom; labels teff, logg, m_h, alpha_m.

    Errors:
        HbcalError for a file that is absent, truncated, has another number of pixels, or is not named as MARCS does;
        for a window without pixels.

    Example:
        >>> read_marcs_fluxes([], Path("flx_wavelengths.vac"))
        Traceback (most recent call last):
        hbcal._errors.HbcalError: No file of the grid was given: name one or more.

    Source:
        Gustafsson et al. 2008, A&A 486, 951.
    """
    paths = _some_files(files)
    wave = _column(Path(wave_file))
    labels, fluxes = [], []
    for path in paths:
        said = read_name(path.name, (".flx", ".flx.gz"))
        if said is None:
            raise HbcalError(
                f"{path} is not named like a MARCS flux (p5750_g+4.5_m0.0_...flx): its labels are unknown."
            )
        fluxes.append(_like(_column(path), wave, path, wave_file))
        labels.append([float(said[name]) for name in LABELS])
    return _spectra(paths, wave, fluxes, labels, window, relative_err)


def read_phoenix(
    files: Sequence[str | Path], wave_file: str | Path, *, window: Window = (0.0, np.inf), relative_err: float = EXACT
) -> Spectra:
    """Read high-resolution PHOENIX spectra (``lte*.PHOENIX-ACES-AGSS-COND-2011-HiRes.fits``).

    Args:
        files: one for each star; labels are read from PHXTEFF, PHXLOGG, PHXM_H and PHXALPHA of their headers.
        wave_file: ``WAVE_PHOENIX-ACES-AGSS-COND-2011.fits``, vacuum Angstrom.
        window: lowest and highest wavelength to keep, Angstrom.
        relative_err: error over flux, as in `read_marcs_fluxes`.

    Returns:
        Spectra on vacuum wavelengths in Angstrom; flux in erg/cm2/s/Angstrom (the files have it per cm); labels teff,
        logg, m_h, alpha_m.

    Errors:
        HbcalError for a file that is absent, truncated, has another number of pixels or another unit, or lacks a label;
        for a window without pixels.

    Example:
        >>> read_phoenix([Path("lte.fits")], Path("nowhere.fits"))
        Traceback (most recent call last):
        hbcal._errors.HbcalError: nowhere.fits: there is no such file of spectra.

    Source:
        Husser et al. 2013, A&A 553, A6.
    """
    paths = _some_files(files)
    wave, _ = _fits(Path(wave_file))
    labels, fluxes = [], []
    for path in paths:
        flux, header = _fits(path)
        missing = [name for name in PHOENIX if not isinstance(header.get(name), int | float)]
        if missing:
            raise HbcalError(
                f"The header of {path} lacks {some(missing, 4)}: it is no PHOENIX spectrum of Husser et al."
            )
        if header.get("BUNIT", "erg/s/cm^2/cm") != "erg/s/cm^2/cm":
            raise HbcalError(
                f"{path} has the unit {header['BUNIT']!r} instead of 'erg/s/cm^2/cm': it is of another grid."
            )
        fluxes.append(1e-8 * _like(flux, wave, path, wave_file))
        labels.append([float(header[name]) for name in PHOENIX])
    return _spectra(paths, wave, fluxes, labels, window, relative_err)


def _some_files(files: Sequence[str | Path]) -> list[Path]:
    if not files:
        raise HbcalError("No file of the grid was given: name one or more.")
    return [Path(path) for path in files]


def _present(path: Path) -> None:
    if not path.is_file():
        raise HbcalError(f"There is no file {path}: get it from where the grid is published.")


def _column(path: Path) -> np.ndarray:
    """One number a line; Fortran drops the E of a three-digit exponent."""
    _present(path)
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("ascii")
        return np.array([float(re.sub(r"(?<=\d)([+-]\d)", r"E\1", word)) for word in text.split()])
    except (EOFError, OSError, ValueError) as error:
        raise HbcalError(f"{path} cannot be read ({error}): it may be truncated; get it again.") from None


def _fits(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Array and header of the first unit of a FITS file."""
    with open_fits(path) as units:
        return hdu_image(units, 0, path, "the spectrum").astype(float), dict(units[0].header)


def _like(flux: np.ndarray, wave: np.ndarray, path: Path, wave_file: str | Path) -> np.ndarray:
    if flux.shape != wave.shape:
        raise HbcalError(
            f"{path} has {len(flux)} pixels but {wave_file} has {len(wave)}: it may be truncated, or of another grid."
        )
    return flux


def _spectra(
    files: Sequence[Path], wave: np.ndarray, fluxes: list[np.ndarray], labels: list[list[float]], window: Window,
    relative_err: float,
) -> Spectra:  # fmt: skip
    """The kept pixels, in ascending order and once each."""
    keep = (wave >= window[0]) & (wave <= window[1])
    if not keep.any():
        raise HbcalError(
            f"The window [{window[0]:g}, {window[1]:g}] has no pixel of the grid, which spans {wave.min():g} to "
            f"{wave.max():g} Angstrom: give low < high inside."
        )
    _, order = np.unique(wave[keep], return_index=True)
    flux = np.stack([flux[keep][order] for flux in fluxes])
    values = np.array(labels)
    return as_spectra({
        "wave": wave[keep][order], "flux": flux, "flux_err": relative_err * flux, "star": [path.name for path in files],
        "labels": values, "labels_err": np.zeros_like(values), "label_names": LABELS,
    }, "the grid")  # fmt: skip
