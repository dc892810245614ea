"""LAMOST low-resolution spectra, as the survey publishes them: one FITS file for each."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hbcal._errors import HbcalError
from hbcal.numerics.wavelength import SPEED_OF_LIGHT
from hbcal.spectra.container import Spectra, as_spectra
from hbcal.spectra.fits_file import column, error_from_ivar, hdu_table, known, number, open_fits

# A pixel is bad where every exposure says so (the "and" mask), whatever the bit. The "or" mask, true where any exposure
# was bad, is not used: what the other exposures saw is good, and the inverse variance has paid for what was left out.
AND_ROW, OR_ROW = 3, 4
FLUX_ROW, IVAR_ROW, WAVE_ROW = 0, 1, 2


def read_lamost(path: Path) -> Spectra:
    """One LAMOST low-resolution spectrum: vacuum wavelengths in A, in the Sun's frame.

    DR8 and later hold a table with one row: FLUX, IVAR, WAVELENGTH, ANDMASK, ORMASK. DR1 to DR7 hold an image with
    these five as its rows; in files of the pilot survey the third row is something else, and the wavelengths are
    10^(COEFF0 + i COEFF1).

    Args:
        path: ``spec-MMMMM-YYYY_spXX-FFF.fits``, gzipped or not.

    Returns:
        The spectrum; meta has ``rv`` = c Z of the header, ``ra``, ``dec`` and ``snr`` in g.

    Errors:
        HbcalError for a file that is absent, damaged or of another format, or what `as_spectra` refuses.

    Source:
        LAMOST data product descriptions, dr5.lamost.org/v3/doc/data-production-description, section 2.3, and
        lamost.org/dr8/v1.0/doc/lr-data-production-description.

    Example:
        >>> read_lamost(Path("absent.fits"))
        Traceback (most recent call last):
        hbcal._errors.HbcalError: absent.fits: there is no such file of spectra.
    """
    with open_fits(path) as hdus:
        header = hdus[0].header
        if hdus[0].data is None:
            table = hdu_table(hdus, 1, path, "the spectrum")
            names = ("FLUX", "IVAR", "WAVELENGTH", "ANDMASK")
            flux, ivar, wave, bad = (np.ravel(column(table, [name], path)) for name in names)
        else:
            image = np.atleast_2d(np.asarray(hdus[0].data, float))
            if len(image) <= OR_ROW:
                raise HbcalError(f"{path} has {len(image)} row(s) in its image, not five: it may be of another format.")
            flux, ivar, wave, bad = (image[row] for row in (FLUX_ROW, IVAR_ROW, WAVE_ROW, AND_ROW))
            if not (np.diff(wave) > 0).all():
                start, step = number(header, "COEFF0", "CRVAL1"), number(header, "COEFF1", "CD1_1")
                wave = 10.0 ** (start + step * np.arange(len(flux)))
        z = known(np.array(number(header, "Z")))
        about = {"rv": SPEED_OF_LIGHT * z} | {
            name: number(header, key) for name, key in (("ra", "RA"), ("dec", "DEC"), ("snr", "SNRG"))
        }
        name = path.name.removesuffix(".gz").removesuffix(".fits")
        return as_spectra(
            {
                "wave": wave,
                "flux": flux[None],
                "flux_err": error_from_ivar(ivar)[None],
                "mask": (bad != 0)[None],
                "star": [str(header.get("OBSID") or name)],
                "meta": np.array([list(about.values())], float),
                "meta_names": list(about),
            },
            str(path),
        )
