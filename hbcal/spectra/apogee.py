"""APOGEE spectra, as SDSS publishes them: apStar, aspcapStar, and mwmStar of SDSS-V."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hbcal._errors import HbcalError
from hbcal.spectra.container import Spectra, as_spectra
from hbcal.spectra.fits_file import (
    bits,
    column,
    error_from_ivar,
    hdu_image,
    hdu_table,
    known,
    linear_wave,
    log_wave,
    number,
    open_fits,
)

# BADPIX, CRPIX, SATPIX, UNFIXABLE, BADDARK, BADFLAT, BADERR, NOSKY and NOT_ENOUGH_PSF: 16639, as the pipeline has it.
# Persistence (9 to 11) and sky lines (12) warn; the error of such a pixel is already larger.
BAD_PIXEL = bits(0, 1, 2, 3, 4, 5, 6, 7, 14)
BAD_PIXEL_MWM = BAD_PIXEL | bits(16, 24)  # and INACTIVE_PIXEL, BAD_EXTRACTION of the pipeline of SDSS-V
BAD_ERROR = 1e9  # the pipeline writes 1e10 where it does not know

# label: (its columns in aspcapStar from the newest release back, its place in PARAM)
ASPCAP = {
    "teff": (("TEFF",), 0),
    "logg": (("LOGG",), 1),
    "m_h": (("M_H",), 3),
    "alpha_m": (("ALPHA_M",), 6),
    "fe_h": (("FE_H",), None),
}


def _good_error(err: np.ndarray) -> np.ndarray:
    """NaN for errors that say nothing."""
    err = np.asarray(err, float)
    return np.where((err > 0) & (err < BAD_ERROR), err, np.nan)


def read_apstar(path: Path) -> Spectra:
    """The combined spectrum of one star: vacuum wavelengths in A, at rest.

    HDUs 1, 2 and 3 are flux, error and mask; the first row is the combination of all visits, and the only one read. The
    wavelengths are even in the logarithm. A pixel is missing where a bit of `BAD_PIXEL` is set.

    Args:
        path: ``apStar-...fits`` or ``asStar-...fits``.

    Returns:
        The spectrum; meta has ``rv`` = 0, since the spectrum is at rest, ``v_star``, the velocity that was taken out,
        ``ra``, ``dec`` and ``snr``.

    Errors:
        HbcalError for a file that is absent, damaged or of another format, or what `as_spectra` refuses.

    Source:
        www.sdss4.org/dr17/irspec/spectra; the data model of apStar in SDSS DR17; the mask in apogee_drp.

    Example:
        >>> read_apstar(Path("absent.fits"))
        Traceback (most recent call last):
        hbcal._errors.HbcalError: absent.fits: there is no such file of spectra.
    """
    with open_fits(path) as hdus:
        what = ((1, "the flux"), (2, "its error"), (3, "the mask"))
        flux, err, mask = (np.atleast_2d(hdu_image(hdus, which, path, name))[0] for which, name in what)
        header = hdus[0].header
        about = {
            "rv": 0.0,
            "v_star": number(header, "VHELIO", "VHBARY", "VRAD"),
            "ra": number(header, "RA"),
            "dec": number(header, "DEC"),
            "snr": number(header, "SNR"),
        }
        return as_spectra(
            {
                "wave": log_wave(hdus[1].header, len(flux), path),
                "flux": flux[None].astype(float),
                "flux_err": _good_error(err)[None],
                "mask": (mask.astype(np.int64) & BAD_PIXEL != 0)[None],
                "star": [str(header.get("OBJID") or header.get("OBJ") or path.name.split(".")[0]).strip()],
                "meta": [list(about.values())],
                "meta_names": list(about),
            },
            str(path),
        )


def read_aspcapstar(path: Path) -> Spectra:
    """The normalised spectrum of one star with its ASPCAP labels: vacuum wavelengths in A, at rest.

    HDUs 1 and 2 are flux and error, 4 is a table with the labels: TEFF, LOGG, M_H, ALPHA_M, FE_H and their _ERR where
    it has them, else elements 0, 1, 3 and 6 of PARAM and the diagonal of PARAM_COV. Pixels between the detectors have
    no error, bad ones one of 1e10: both are missing.

    Args:
        path: ``aspcapStar-...fits``.

    Returns:
        The spectrum with labels teff, logg, m_h, alpha_m, fe_h.

    Errors:
        HbcalError for a file that is absent, damaged or of another format, or what `as_spectra` refuses.

    Source:
        www.sdss4.org/dr17/irspec/spectra; the data model of aspcapStar in SDSS DR17.

    Example:
        >>> read_aspcapstar(Path("absent.fits"))
        Traceback (most recent call last):
        hbcal._errors.HbcalError: absent.fits: there is no such file of spectra.
    """
    with open_fits(path) as hdus:
        flux, err = (np.ravel(hdu_image(hdus, i, path, what)) for i, what in ((1, "the flux"), (2, "its error")))
        table = hdu_table(hdus, 4, path, "the table of ASPCAP")
        labels, errors = zip(*(_aspcap(table, *ASPCAP[name]) for name in ASPCAP), strict=True)
        return as_spectra(
            {
                "wave": log_wave(hdus[1].header, len(flux), path),
                "flux": flux[None].astype(float),
                "flux_err": _good_error(err)[None],
                "star": [str(column(table, ["APOGEE_ID"], path)[0]).strip()],
                "labels": [labels],
                "labels_err": [errors],
                "label_names": list(ASPCAP),
                "meta": [[0.0, *(_first(table, name) for name in ("VHELIO_AVG", "SNR"))]],
                "meta_names": ["rv", "v_star", "snr"],
            },
            str(path),
        )


def _first(table: Any, name: str) -> float:
    """A number of the table's one row; NaN without it."""
    has = {each.upper(): each for each in table.dtype.names}
    return float(known(np.ravel(table[has[name]])[:1])[0]) if name in has else float("nan")


def _aspcap(table: Any, names: tuple[str, ...], place: int | None) -> tuple[float, float]:
    """A label and its error; NaN without them."""
    for name in names:
        value, err = _first(table, name), _first(table, f"{name}_ERR")
        if np.isfinite(value):
            return value, err if err > 0 else float("nan")
    has = {each.upper(): each for each in table.dtype.names}
    if place is None or "PARAM" not in has:
        return float("nan"), float("nan")
    value = float(known(np.ravel(table[has["PARAM"]][0]))[place])
    if "PARAM_COV" not in has or not np.isfinite(value):
        return value, float("nan")
    cov = np.asarray(table[has["PARAM_COV"]][0], float)
    var = cov.reshape(int(np.sqrt(cov.size)), -1)[place, place]
    return value, float(np.sqrt(var)) if var > 0 else float("nan")


def read_mwmstar(path: Path) -> Spectra:
    """The combined APOGEE spectrum of one star of SDSS-V: vacuum wavelengths in A, at rest.

    HDUs 3 and 4 are tables of the spectra from Apache Point and Las Campanas: flux, ivar, pixel_flags, and wavelength
    or CRVAL, CDELT and NPIXELS in the header. Where both observed the star, the better signal-to-noise ratio counts.

    Args:
        path: ``mwmStar-...fits``.

    Returns:
        The spectrum.

    Errors:
        HbcalError for a file that is absent, damaged, without an APOGEE spectrum, or what `as_spectra` refuses.

    Source:
        the data model of mwmStar in SDSS DR19.

    Example:
        >>> read_mwmstar(Path("absent.fits"))
        Traceback (most recent call last):
        hbcal._errors.HbcalError: absent.fits: there is no such file of spectra.
    """
    with open_fits(path) as hdus:
        seen = [hdu for hdu in hdus[3:5] if hdu.data is not None and len(hdu.data)]
        if not seen:
            raise HbcalError(f"{path} has no APOGEE spectrum in HDU 3 or 4: it may be of another format.")
        best = max(seen, key=lambda hdu: np.nan_to_num(_first(hdu.data, "SNR"), nan=-1.0))
        row = {name: column(best.data, [name], path)[0] for name in ("flux", "ivar", "pixel_flags")}
        if "wavelength" in (each.lower() for each in best.data.dtype.names):
            wave = np.ravel(column(best.data, ["wavelength"], path)[0])
        else:
            header = {"CRVAL1": best.header.get("CRVAL"), "CDELT1": best.header.get("CDELT")}
            wave = 10.0 ** linear_wave(header, len(row["flux"]), path)
        star = hdus[0].header.get("SDSS_ID") or column(best.data, ["sdss_id"], path)[0]
        return as_spectra(
            {
                "wave": wave,
                "flux": row["flux"][None].astype(float),
                "flux_err": error_from_ivar(row["ivar"])[None],
                "mask": (row["pixel_flags"].astype(np.int64) & BAD_PIXEL_MWM != 0)[None],
                "star": [str(star)],
                "meta": [[0.0, _first(best.data, "V_RAD"), _first(best.data, "SNR")]],
                "meta_names": ["rv", "v_star", "snr"],
            },
            str(path),
        )
