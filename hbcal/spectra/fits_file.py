"""What every reader of FITS files needs: one way to open them, and clear words for what they lack."""

from __future__ import annotations

import gzip
import io
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from hbcal._errors import HbcalError

SENTINEL = -9000.0  # surveys write -9999 where they know nothing


@contextmanager
def open_fits(path: Path) -> Iterator[Any]:
    """Open a FITS file, gzipped or not, and see that it is whole.

    Args:
        path: the file.

    Returns:
        A context with the HDUs.

    Errors:
        HbcalError for a file that is absent, truncated or no FITS, and for whatever goes wrong while it is read.

    Example:
        >>> with open_fits(Path("absent.fits")) as hdus:
        ...     pass
        Traceback (most recent call last):
        hbcal._errors.HbcalError: absent.fits: there is no such file of spectra.
    """
    from astropy.io import fits

    if not path.is_file():
        raise HbcalError(f"{path}: there is no such file of spectra.")
    with one_sentence(path, "FITS"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cards that break the standard are common, and harmless
        warnings.filterwarnings("error", "File may have been truncated")
        # a compressed file is unpacked first, because astropy takes the loss of its end for the end
        source = io.BytesIO(gzip.decompress(path.read_bytes())) if path.suffix == ".gz" else path
        with fits.open(source, memmap=False) as hdus:
            len(hdus)  # goes through all headers, and so to the end of the file
            yield hdus


@contextmanager
def one_sentence(path: Path, kind: str) -> Iterator[None]:
    """Whatever a library says of a damaged file, as one sentence.

    Args:
        path: the file.
        kind: as what it is read, for the message.

    Returns:
        A context.

    Errors:
        HbcalError for what goes wrong within.

    Example:
        >>> with one_sentence(Path("x.csv"), "CSV"):
        ...     {}["flux"]
        Traceback (most recent call last):
        hbcal._errors.HbcalError: x.csv cannot be read as CSV, it may be truncated ('flux'): fetch it again.
    """
    try:
        yield
    except HbcalError:
        raise
    except (OSError, EOFError, zlib.error, ValueError, TypeError, IndexError, KeyError, Warning) as error:
        told = " ".join(str(error).split())[:120]
        raise HbcalError(f"{path} cannot be read as {kind}, it may be truncated ({told}): fetch it again.") from None


def hdu_image(hdus: Any, which: int, path: Path, what: str) -> np.ndarray:
    """The image of one HDU.

    Args:
        hdus: an open FITS file.
        which: number of the HDU.
        path: of the file, for messages.
        what: what the HDU should hold, for messages.

    Returns:
        Its pixels, in the machine's byte order.

    Errors:
        HbcalError where the file has no such HDU or no image in it.

    Example:
        >>> from astropy.io import fits
        >>> hdu_image(fits.HDUList([fits.PrimaryHDU()]), 1, Path("x.fits"), "the flux")
        Traceback (most recent call last):
        hbcal._errors.HbcalError: x.fits has no HDU 1 with the flux: it may be of another format.
    """
    found = _data(hdus, which, path, what)
    if found.dtype.names is not None:
        raise HbcalError(f"{path} has a table in HDU {which} and no image with {what}: it may be of another format.")
    return found.astype(found.dtype.newbyteorder("="))


def hdu_table(hdus: Any, which: int, path: Path, what: str) -> Any:
    """The table of one HDU, with one row or more.

    Args:
        hdus: an open FITS file.
        which: number of the HDU.
        path: of the file, for messages.
        what: what the HDU should hold, for messages.

    Returns:
        The table; see `column`.

    Errors:
        HbcalError where the file has no such HDU or no table in it.

    Example:
        >>> from astropy.io import fits
        >>> hdu_table(fits.HDUList([fits.PrimaryHDU()]), 4, Path("x.fits"), "the labels")
        Traceback (most recent call last):
        hbcal._errors.HbcalError: x.fits has no HDU 4 with the labels: it may be of another format.
    """
    found = _data(hdus, which, path, what)
    if found.dtype.names is None or len(found) == 0:
        raise HbcalError(f"{path} has no row of a table with {what} in HDU {which}: it may be of another format.")
    return found


def _data(hdus: Any, which: int, path: Path, what: str) -> Any:
    if which >= len(hdus) or hdus[which].data is None:
        raise HbcalError(f"{path} has no HDU {which} with {what}: it may be of another format.")
    return hdus[which].data


def column(table: Any, names: Sequence[str], path: Path) -> np.ndarray:
    """A column of a FITS table, by the first of several names that it has, in upper or lower case.

    Args:
        table: of an HDU.
        names: from the best to the last resort.
        path: of the file, for messages.

    Returns:
        Its values, in the machine's byte order.

    Errors:
        HbcalError where none of the names is there.

    Example:
        >>> table = np.array([(1.0,)], dtype=[("FLUX", ">f8")])
        >>> column(table, ["flux"], Path("x.fits")).tolist()
        [1.0]
    """
    has = {name.upper(): name for name in (getattr(table.dtype, "names", None) or ())}
    for name in names:
        if name.upper() in has:
            values = np.asarray(table[has[name.upper()]])
            return values.astype(values.dtype.newbyteorder("="))
    raise HbcalError(f"{path} has no column {' or '.join(map(repr, names))}: it may be of another format.")


def number(header: Any, *names: str) -> float:
    """A number of a header.

    Args:
        header: name -> value.
        names: from the best to the last resort.

    Returns:
        The first that is a number and no sentinel; NaN where there is none.

    Errors:
        None.

    Example:
        >>> number({"RV": -9999.0, "VHELIO": 3}, "RV", "VHELIO")
        3.0
    """
    for name in names:
        value = header.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and value > SENTINEL:
            return float(value)
    return float("nan")


def log_wave(header: Any, n_pix: int, path: Path) -> np.ndarray:
    """Wavelengths that are even in the decimal logarithm, as the header has them.

    wave_i = 10^(CRVAL1 + (i + 1 - CRPIX1) CDELT1), i = 0, 1, ...

    Args:
        header: with CRVAL1, CDELT1 (or CD1_1) and perhaps CRPIX1.
        n_pix: how many.
        path: of the file, for messages.

    Returns:
        The wavelengths, (n_pix,).

    Errors:
        HbcalError where the header lacks them.

    Example:
        >>> log_wave({"CRVAL1": 3.0, "CDELT1": 1.0}, 2, Path("x.fits")).tolist()
        [1000.0, 10000.0]
    """
    return 10.0 ** linear_wave(header, n_pix, path)


def linear_wave(header: Any, n_pix: int, path: Path) -> np.ndarray:
    """Wavelengths that are even, as the header has them; a reference pixel of 0 is taken for 1, as IRAF means it.

    wave_i = CRVAL1 + (i + 1 - CRPIX1) CDELT1, i = 0, 1, ...

    Args:
        header: with CRVAL1, CDELT1 (or CD1_1) and perhaps CRPIX1.
        n_pix: how many.
        path: of the file, for messages.

    Returns:
        The wavelengths, (n_pix,).

    Errors:
        HbcalError where the header lacks them.

    Example:
        >>> linear_wave({"CRVAL1": 5.0, "CDELT1": 0.5, "CRPIX1": 2}, 3, Path("x.fits")).tolist()
        [4.5, 5.0, 5.5]
    """
    start, step = number(header, "CRVAL1"), number(header, "CDELT1", "CD1_1")
    if not np.isfinite([start, step]).all():
        raise HbcalError(f"{path} has no CRVAL1 and CDELT1 for the wavelengths: it may be of another format.")
    reference = number(header, "CRPIX1")
    reference = reference if np.isfinite(reference) and reference != 0 else 1.0
    return start + (np.arange(n_pix) + 1 - reference) * step


def bits(*positions: int) -> int:
    """The number with these bits set.

    Args:
        positions: counted from 0.

    Returns:
        sum 2^position.

    Errors:
        None.

    Example:
        >>> bits(0, 3)
        9
    """
    return sum(1 << position for position in positions)


def error_from_ivar(ivar: np.ndarray) -> np.ndarray:
    """Error from inverse variance, err = ivar^(-1/2); NaN where it is not positive.

    Args:
        ivar: any shape.

    Returns:
        The errors, in the same shape.

    Errors:
        None.

    Example:
        >>> error_from_ivar(np.array([4.0, 0.0, -1.0])).tolist()
        [0.5, nan, nan]
    """
    ivar = np.asarray(ivar, float)
    return np.where(ivar > 0, np.where(ivar > 0, ivar, 1.0) ** -0.5, np.nan)


def known(values: np.ndarray) -> np.ndarray:
    """Numbers with NaN for the surveys' sentinels.

    Args:
        values: any shape.

    Returns:
        The same, as floats.

    Errors:
        None.

    Example:
        >>> known(np.array([1.0, -9999.0])).tolist()
        [1.0, nan]
    """
    values = np.asarray(values, float)
    return np.where(np.isfinite(values) & (values > SENTINEL), values, np.nan)
