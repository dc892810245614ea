"""Sampled Gaia XP spectra as the Gaia archive and GaiaXPy write them: CSV, ECSV, FITS or VOTable."""

from __future__ import annotations

import csv
import gzip
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hbcal._errors import HbcalError, some
from hbcal.spectra.container import Spectra, as_spectra
from hbcal.spectra.fits_file import one_sentence, open_fits
from hbcal.spectra.gaia_xp import WAVE

N_PIECE = 1000  # stars of a text file that are in memory at a time: the archive's files have 60,000
TEXT, VOTABLE = (".csv", ".ecsv"), (".xml", ".vot", ".votable")
NEEDED = ("flux", "flux_error")


def kind(path: Path) -> str | None:
    """How a table of XP spectra is written, by the name of its file.

    Args:
        path: of the file; a last ``.gz`` does not count.

    Returns:
        ``"text"``, ``"votable"``, or None for anything else.

    Errors:
        None.

    Example:
        >>> kind(Path("XpSampledMeanSpectrum_000000-003111.csv.gz"))
        'text'
    """
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    return "text" if suffix in TEXT else "votable" if suffix in VOTABLE else None


def columns_of(path: Path) -> set[str]:
    """Names of the columns of a text file or VOTable, in upper case; the rows are not read.

    Args:
        path: of the file; see `kind`.

    Returns:
        The names.

    Errors:
        HbcalError for a file that is absent or damaged.

    Example:
        >>> columns_of(Path("absent.csv"))
        Traceback (most recent call last):
        hbcal._errors.HbcalError: absent.csv: there is no such file of spectra.
    """
    if kind(path) == "text":
        return {name.upper() for name in _head(path)[0]}
    with one_sentence(path, "VOTable"), _opened(path) as stream:
        head = stream.read(1 << 16).decode("utf-8", "replace")
    fields = re.findall(r"<FIELD\b[^>]*>", head)
    return {name.upper() for field in fields for name in re.findall(r'\bname="([^"]*)"', field)}


def read_xp_archive(path: Path) -> Iterator[Spectra]:
    """Sampled XP spectra: wavelengths in nm, flux as it is, in W m^-2 nm^-1.

    Three shapes are read: a row for each star with its flux as an array (the archive's bulk files, its RAW tables, and
    what ``gaiaxpy.calibrate`` saves, but for Avro); a row for each pixel, with ``source_id`` (COMBINED); and a row for
    each pixel of one star (INDIVIDUAL), whose id is in the file's name. The wavelengths are the column ``wavelength``,
    or the ``sampling`` that GaiaXPy keeps in the header or beside a CSV as ``NAME_sampling.csv``, or, with 343 pixels,
    the archive's: 336, 338, ... 1020 nm. A star without flux is kept, all its pixels missing.

    Args:
        path: ``.csv``, ``.ecsv``, ``.fits``, ``.xml``, ``.vot`` or ``.votable``, each also with ``.gz``.

    Returns:
        The spectra in pieces, by Gaia id; there are no labels.

    Errors:
        HbcalError for a file that is absent, damaged or of another format; for BP and RP spectra that are not
        calibrated; for wavelengths that nothing tells; for ids that are none; or what `as_spectra` refuses.

    Source:
        Gaia DR3 documentation, section 20.12.4, xp_sampled_mean_spectrum; GaiaXPy 2.1.5, output/sampled_spectra_data.

    Example:
        >>> list(read_xp_archive(Path("absent.csv")))
        Traceback (most recent call last):
        hbcal._errors.HbcalError: absent.csv: there is no such file of spectra.
    """
    if kind(path) == "text":
        names, sampling = _head(path)
        tables = _rows_of_text(path, names)
    else:
        found, sampling = _votable(path) if kind(path) == "votable" else _fits(path)
        tables = iter([found])
    sampling = _sampling_beside(path) if sampling is None else sampling
    for table in tables:
        for name in NEEDED:
            if name not in table:
                raise HbcalError(f"{path} has no column {name!r}: it may be of another format.")
        if "xp" in table:
            raise HbcalError(
                f"{path} has BP and RP spectra apart, which are not calibrated: let gaiaxpy calibrate them first."
            )
        yield _of_pixels(table, path) if "wavelength" in table else _of_stars(table, sampling, path)


def _of_stars(table: Mapping[str, Any], sampling: np.ndarray | None, path: Path) -> Spectra:
    """A row for each star."""
    if "source_id" not in table:
        raise HbcalError(f"{path} has neither the column 'source_id' nor 'wavelength': it may be of another format.")
    if any(np.ndim(row) == 0 for name in NEEDED for row in table[name][:1]):
        raise HbcalError(f"{path} has one flux a row and no column 'wavelength': it may be of another format.")
    n_pix = max(map(len, table["flux"]), default=0)
    if sampling is None and n_pix not in (0, len(WAVE)):
        raise HbcalError(
            f"{path} has spectra of {n_pix} pixels and does not tell their wavelengths: keep the file of the sampling, "
            f"{_beside(path).name}, beside it."
        )
    wave = WAVE if sampling is None else sampling
    flux, err = (np.full((len(table["flux"]), len(wave)), np.nan) for _ in NEEDED)
    for name, filled in zip(NEEDED, (flux, err), strict=True):
        for i, row in enumerate(table[name]):
            if len(row) not in (0, len(wave)):
                raise HbcalError(
                    f"{path}: {name} of the star {table['source_id'][i]} has {len(row)} pixels, not {len(wave)} as the "
                    "wavelengths: fetch the file again."
                )
            filled[i, : len(row)] = row
    return _spectra(wave, flux, err, table["source_id"], path)


def _of_pixels(table: Mapping[str, Any], path: Path) -> Spectra:
    """A row for each pixel, of one star or of several."""
    wave = np.asarray(table["wavelength"], float)
    ids = np.array([str(one) for one in table.get("source_id", np.zeros(len(wave), int))])
    n_star = len(np.unique(ids))
    if len(wave) % n_star or (ids.reshape(n_star, -1) != ids.reshape(n_star, -1)[:, :1]).any():
        raise HbcalError(f"{path} has stars with unlike numbers of pixels, or mixed with each other: fetch it again.")
    each = wave.reshape(n_star, -1)
    if (each != each[0]).any():
        raise HbcalError(f"{path} has stars with unlike wavelengths: give a file for each.")
    star = ids.reshape(n_star, -1)[:, 0]
    if "source_id" not in table:
        told = [digits for digits in re.findall(r"\d+", path.name) if len(digits) > 9]
        if len(told) != 1:
            raise HbcalError(
                f"{path} has no column 'source_id', and {len(told)} numbers in its name look like a Gaia id: let there "
                "be one, the star's."
            )
        star = np.array(told)
    flux, err = (np.asarray(table[name], float).reshape(n_star, -1) for name in NEEDED)
    return _spectra(each[0], flux, err, star, path)


def _spectra(wave: np.ndarray, flux: np.ndarray, err: np.ndarray, star: Any, path: Path) -> Spectra:
    ids = [str(one).strip() for one in star]
    odd = [one for one in ids if not (one.isdecimal() and int(one) > 0)]
    if odd:
        raise HbcalError(f"{path} has {len(odd)} source_id(s) that are no whole numbers, {some(odd)}: correct them.")
    return as_spectra({"wave": wave, "flux": flux, "flux_err": err, "star": ids}, str(path))


# ---- three ways to write a table: each ends as {column in lower case: values}, and the wavelengths where it tells them


def _opened(path: Path) -> Any:
    if not path.is_file():
        raise HbcalError(f"{path}: there is no such file of spectra.")
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def _numbers(text: str) -> np.ndarray:
    """An array that was written as ``(1.0, nan)`` or ``[1.0, null]``; empty for nothing."""
    inside = text.strip().strip("()[]").strip().lower()
    if inside in ("", "null", "nan", "none"):
        return np.empty(0)
    return np.array([np.nan if each.strip() == "null" else float(each) for each in inside.rstrip(",").split(",")])


def _head(path: Path) -> tuple[list[str], np.ndarray | None]:
    """Names of the columns of a text file, and its wavelengths."""
    sampling = None
    with one_sentence(path, "CSV"), _opened(path) as stream:
        for raw in stream:
            line = raw.decode("utf-8").strip()
            if line.startswith("#"):
                if (told := re.match(r"#\s*sampling:\s*(\[.*\])", line)) is not None:
                    sampling = _numbers(told[1])
                continue
            names = [name.strip().strip('"').lower() for name in line.split(",")]
            break
        else:
            raise HbcalError(f"{path} is empty: fetch it again.")
    return names, sampling


def _beside(path: Path) -> Path:
    """Where GaiaXPy keeps the wavelengths of a CSV."""
    return path.with_name(f"{Path(path.name.removesuffix('.gz')).stem}_sampling.csv")


def _sampling_beside(path: Path) -> np.ndarray | None:
    if not _beside(path).is_file():
        return None
    with one_sentence(_beside(path), "CSV"):
        return _numbers(_beside(path).read_text().strip().splitlines()[-1].strip('"'))


def _rows_of_text(path: Path, names: list[str]) -> Iterator[dict[str, Any]]:
    """A text file in pieces of some stars, or whole where a row is a pixel."""
    at = {name: names.index(name) for name in ("source_id", "xp", "wavelength", *NEEDED) if name in names}
    by_pixel, held, n = "wavelength" in names, list[list[str]](), 0
    csv.field_size_limit(1 << 30)  # a row of GaiaXPy may hold a matrix of correlations
    with one_sentence(path, "CSV"), _opened(path) as stream:
        lines = (line.decode("utf-8") for line in stream)
        rows = csv.reader(line for line in lines if line.strip() and not line.startswith("#"))
        next(rows)  # the names
        for n, row in enumerate(rows, 1):
            if len(row) != len(names):
                raise HbcalError(f"{path}: row {n} has {len(row)} columns, not {len(names)}: fetch the file again.")
            held.append([row[k] for k in at.values()])
            if len(held) == N_PIECE and not by_pixel:
                yield _table(held, list(at), by_pixel)
                held = []
        if held:
            yield _table(held, list(at), by_pixel)
    if n == 0:
        raise HbcalError(f"{path} has no row: there is no spectrum in it.")


def _table(rows: list[list[str]], names: list[str], by_pixel: bool) -> dict[str, Any]:
    table: dict[str, Any] = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    for name in {*NEEDED, "wavelength"} & set(names):
        values = [_numbers(text) for text in table[name]]
        table[name] = np.array([value[0] if len(value) else np.nan for value in values]) if by_pixel else values
    return table


def _votable(path: Path) -> tuple[dict[str, Any], np.ndarray | None]:
    from astropy.io.votable import parse_single_table

    with one_sentence(path, "VOTable"), _opened(path) as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # units that break the standard are common, and harmless
        table = parse_single_table(stream)
        told = [np.asarray(param.value, float) for param in table.params if param.name == "sampling"]
        rows = table.to_table(use_names_over_ids=True).as_array()
        return _filled(rows, path), told[0] if told else None


def _fits(path: Path) -> tuple[dict[str, Any], np.ndarray | None]:
    with open_fits(path) as hdus:
        if len(hdus) < 2 or getattr(hdus[1], "columns", None) is None:
            raise HbcalError(f"{path} has no table in HDU 1 with the spectra: it may be of another format.")
        told = hdus[1].header.get("SAMPLING")
        return _filled(hdus[1].data, path), None if told is None else _numbers(str(told))


def _filled(rows: Any, path: Path) -> dict[str, Any]:
    """The columns that count, in the machine's byte order; masked numbers are missing."""
    if len(rows) == 0:
        raise HbcalError(f"{path} has no row: there is no spectrum in it.")
    found: dict[str, Any] = {}
    for name in rows.dtype.names:
        values = rows[name]
        if name.lower() in (*NEEDED, "wavelength"):
            ragged = values.dtype.kind == "O"
            values = [_known(each) for each in np.asarray(values)] if ragged else _known(values)
        elif np.ma.isMaskedArray(values):
            values = [None if one is np.ma.masked else one for one in values]
        found[name.lower()] = values
    return found


def _known(values: Any) -> np.ndarray:
    """In double precision; what is masked is missing."""
    return np.ma.filled(np.ma.asarray(values).astype(float), np.nan)
