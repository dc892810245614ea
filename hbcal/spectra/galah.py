"""GALAH spectra, as the survey publishes them: four files for each object in DR3, one in DR4."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hbcal._errors import HbcalError
from hbcal.spectra.container import Spectra, as_spectra
from hbcal.spectra.fits_file import column, hdu_image, hdu_table, known, linear_wave, number, open_fits

ARMS = ("1", "2", "3", "4")  # blue, green, red, infrared: the last digit of the file's name
RELATIVE = ("INPUT_SIGMA", "RELATIVE_ERROR")  # what the HDU with the errors is called
N_HDU_6 = 8  # of a file of reduction 6.0, whose second HDU is the normalised flux and whose third is the error
FIT = "_allstar_fit_spectrum"  # in the name of a DR4 file


def object_of(path: Path) -> Path:
    """What the files of one object have in common: their path without the number of the arm.

    Args:
        path: of one arm's file.

    Returns:
        The same for all four.

    Errors:
        None.

    Example:
        >>> str(object_of(Path("com/1704180037012053.fits")))
        'com/170418003701205'
    """
    return path.with_name(path.name.split(".")[0][:-1])


def read_galah(path: Path) -> Spectra:
    """One reduced GALAH object, its four arms one after the other: air wavelengths in A, in the Sun's frame.

    Of each file the first HDU is the flux, and the *relative* error is the second in DR3 (reduction 5.3) and the third
    in reduction 6.0, which DR4 is made from; wave_i = CRVAL1 + (i + 1 - CRPIX1) CDELT1. An arm whose file is lacking
    (12,181 objects of DR3) is left out.

    Args:
        path: one of the four files ``SOBJECT_ID`` + 1, 2, 3 or 4 + ``.fits``; the others are looked for beside it.

    Returns:
        The spectrum; meta has ``rv`` where the header knows it.

    Errors:
        HbcalError for a file that is absent, damaged or of another format, or what `as_spectra` refuses.

    Source:
        docs.datacentral.org.au/galah/dr3/galah-dr3-spectra: extensions, names and missing files;
        github.com/sheliak/galah_reduction, documentation/folder_and_file_structure.txt: reduction 6.0.

    Example:
        >>> read_galah(Path("1704180037012051.fits"))
        Traceback (most recent call last):
        hbcal._errors.HbcalError: 1704180037012051.fits: there is no such file of spectra.
    """
    stem, suffix = object_of(path), path.name.removeprefix(path.name.split(".")[0])
    found = [each for arm in ARMS if (each := stem.with_name(stem.name + arm + suffix)).is_file()]
    wave, flux, err, rv = [], [], [], [np.nan]
    for file in found or [path]:
        with open_fits(file) as hdus:
            value = known(np.ravel(hdu_image(hdus, 0, file, "the flux")))
            named = [i for i, hdu in enumerate(hdus) if hdu.name.upper() in RELATIVE]
            which = named[0] if named else 2 if len(hdus) >= N_HDU_6 else 1
            relative = known(np.ravel(hdu_image(hdus, which, file, "its relative error")))
            if len(value) != len(relative):
                raise HbcalError(f"{file} has {len(value)} pixels of flux, but {len(relative)} errors.")
            wave.append(linear_wave(hdus[0].header, len(value), file))
            flux.append(value)
            err.append(np.where(relative > 0, np.abs(value) * relative, np.nan))
            rv.append(number(hdus[0].header, "RVCOM") if hdus[0].header.get("RVCOM_OK", 1) else np.nan)
    known_rv = [each for each in rv if np.isfinite(each)]
    return as_spectra(
        {
            "wave": np.concatenate(wave),
            "flux": np.concatenate(flux)[None],
            "flux_err": np.concatenate(err)[None],
            "star": [stem.name],
            "meta": [[known_rv[0] if known_rv else np.nan]],
            "meta_names": ["rv"],
        },
        str(path),
    )


def read_galah_dr4(path: Path) -> Spectra:
    """One GALAH DR4 object, normalised as its pipeline fitted it: air wavelengths in A.

    Args:
        path: ``SOBJECT_ID_allstar_fit_spectrum.fits``, a table with columns wave, sob (observed flux), uob (its error);
            no velocity is with them.

    Returns:
        The spectrum.

    Errors:
        HbcalError for a file that is absent, damaged or of another format, or what `as_spectra` refuses.

    Example:
        >>> read_galah_dr4(Path("absent.fits"))
        Traceback (most recent call last):
        hbcal._errors.HbcalError: absent.fits: there is no such file of spectra.
    """
    with open_fits(path) as hdus:
        table = hdu_table(hdus, 1, path, "the spectrum")
        wave, flux, err = (np.ravel(column(table, [name], path)).astype(float) for name in ("wave", "sob", "uob"))
    return as_spectra(
        {
            "wave": wave,
            "flux": flux[None],
            "flux_err": np.where(err > 0, err, np.nan)[None],
            "star": [path.name.split(".")[0].replace(FIT, "")],
        },
        str(path),
    )
