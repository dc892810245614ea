"""Read named columns from CSV, ECSV, Parquet or FITS, as plain arrays; whatever is wrong is one sentence."""

from __future__ import annotations

import gzip
import warnings
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from hbcal._errors import HbcalError, closest, some

Kind = Literal["number", "text"]
MISSING = frozenset({"", "nan", "na", "n/a", "null", "none", "--", "<na>"})


@dataclass(frozen=True)
class Columns:
    """Columns of one file: arrays of equal length (float64 with NaN, or str with ""), and the units the file states."""

    path: Path
    values: Mapping[str, np.ndarray]
    units: Mapping[str, str]
    n_row: int


def read_columns(path: Path, wanted: Mapping[str, Kind], missing: tuple[float, ...] = ()) -> Columns:
    """Read the columns a recipe names, and no others.

    Args:
        path: a ``.csv``, ``.csv.gz``, ``.ecsv``, ``.parquet`` or ``.fits`` file.
        wanted: column name -> ``"number"`` (float64, NaN where missing) or ``"text"`` (str, "" where missing; integer
            identifiers become their digits and never pass through a float).
        missing: numbers that mean "no value" in this file, such as -9999.

    Returns:
        `Columns` with arrays of shape (n_row,), in the file's order and units.

    Errors:
        HbcalError when the file is missing, empty, truncated or of another kind, lacks a column, or has text where a
        number is needed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as d:
        ...     p = Path(d) / "t.csv"
        ...     _ = p.write_text("id,x\\n7,1.5\\n8,\\n")
        ...     read_columns(p, {"id": "text", "x": "number"}).values["x"].tolist()
        [1.5, nan]
    """
    if not path.is_file():
        raise HbcalError(f"The file {path} does not exist: check the folder and the recipe's file name.")
    names, load = _open(path)
    lacking = [name for name in wanted if name not in names]
    if lacking:
        raise HbcalError(
            f"{path.name} lacks {len(lacking)} column(s) that are needed, {some(lacking)}"
            f"{closest(lacking[0], names) if len(names) < 60 else closest(lacking[0], names).split(' (allowed')[0]}: "
            "add them or correct the recipe."
        )
    values, units = load(list(wanted))
    out = {}
    for name, kind in wanted.items():
        if kind == "text":
            text = _as_text(values[name])
            out[name] = np.where(np.isin(text.astype(str), [f"{m:g}" for m in missing]), "", text)
        else:
            number = _as_number(values[name], name, path)
            out[name] = np.where(np.isin(number, missing), np.nan, number)
    n_row = len(next(iter(out.values()))) if out else 0
    if n_row == 0:
        raise HbcalError(f"{path.name} has no rows: there is nothing to read.")
    return Columns(path, out, units, n_row)


def column_names(path: Path) -> list[str]:
    """Names of a file's columns, without reading the rows.

    Args:
        path: as for `read_columns`.

    Returns:
        The names, in order.

    Errors:
        HbcalError as `read_columns`.

    Example:
        >>> column_names(Path("missing.csv"))
        Traceback (most recent call last):
        hbcal._errors.HbcalError: The file missing.csv does not exist: check the folder and the recipe's file name.
    """
    if not path.is_file():
        raise HbcalError(f"The file {path} does not exist: check the folder and the recipe's file name.")
    return _open(path)[0]


def _open(path: Path) -> tuple[list[str], Any]:
    """Column names of a file, and a function that loads some of them."""
    kinds = {".csv": _csv, ".ecsv": _ecsv, ".parquet": _parquet, ".fits": _fits, ".fit": _fits}
    suffixes = [s.lower() for s in path.suffixes]
    kind = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else (suffixes[-1] if suffixes else "")
    if kind not in kinds:
        raise HbcalError(f"{path.name} is of an unknown kind: hbcal reads .csv, .csv.gz, .ecsv, .parquet and .fits.")
    try:
        return kinds[kind](path)
    except HbcalError:
        raise
    except (OSError, EOFError, ValueError, TypeError, KeyError, zlib.error, pd.errors.ParserError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise HbcalError(
            f"{path.name} cannot be read as {kind[1:]}; it may be truncated or damaged ({first[:160]}): get it again."
        ) from None


def _csv(path: Path) -> tuple[list[str], Any]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as handle:
        content = handle.read()  # once: a truncated gzip stream fails here
    if not content.strip():
        raise HbcalError(f"{path.name} is empty: there is not even a header.")
    import io

    names = list(pd.read_csv(io.BytesIO(content), nrows=0).columns)
    last = content.rsplit(b"\n", 1)[-1]
    if last.strip() and b'"' not in last and last.count(b",") < len(names) - 1:
        raise HbcalError(
            f"{path.name} is truncated: its last line has {last.count(b',') + 1} of {len(names)} fields; get it again."
        )

    def load(wanted: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
        frame = pd.read_csv(io.BytesIO(content), usecols=wanted, dtype=str, keep_default_na=False)
        return {name: frame[name] for name in wanted}, {}

    return names, load


def _ecsv(path: Path) -> tuple[list[str], Any]:
    from astropy.table import Table

    table = Table.read(path, format="ascii.ecsv")
    return list(table.colnames), lambda wanted: (
        {name: _from_astropy(table[name]) for name in wanted},
        {name: str(table[name].unit) for name in wanted if table[name].unit is not None},
    )


def _from_astropy(column: Any) -> pd.Series:
    series = pd.Series(np.ma.getdata(column).astype(object) if column.dtype.kind in "iu" else np.ma.getdata(column))
    mask = np.ma.getmaskarray(column)
    return series.astype(object).where(~mask, None) if mask.any() else series


def _parquet(path: Path) -> tuple[list[str], Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except pa.ArrowException as error:
        raise ValueError(str(error)) from None

    def load(wanted: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
        table = pq.read_table(path, columns=wanted)
        values = {}
        for name in wanted:
            column = table.column(name)
            if pa.types.is_dictionary(column.type):
                column = column.cast(column.type.value_type)
            if pa.types.is_integer(column.type):
                column = column.cast(pa.string())  # digits survive nulls
            values[name] = column.to_pandas()
        units = {n: schema.field(n).metadata[b"unit"].decode() for n in wanted if b"unit" in (schema.field(n).metadata or {})}
        return values, units

    return list(schema.names), load


def _fits(path: Path) -> tuple[list[str], Any]:
    from astropy.io import fits

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "File may have been truncated" is a warning there
        try:
            with fits.open(path, memmap=True) as hdus:
                table = next((h for h in hdus if isinstance(h, fits.BinTableHDU | fits.TableHDU)), None)
                if table is None:
                    raise HbcalError(f"{path.name} has no table extension: give a FITS file with one.")
                names, units = list(table.columns.names), dict(zip(table.columns.names, table.columns.units, strict=True))
        except Warning as warning:
            raise ValueError(str(warning)) from None

    def load(wanted: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
        values = {}
        with fits.open(path, memmap=True) as hdus:
            table = next(h for h in hdus if isinstance(h, fits.BinTableHDU | fits.TableHDU))
            for name in wanted:
                column = np.array(table.data[name])
                if column.dtype.kind in "iu":
                    null = table.columns[name].null
                    missing = np.zeros(len(column), bool) if null is None else column == null
                    column = np.where(missing, None, column.astype(object))
                elif column.dtype.kind == "f":
                    column = column.astype(np.float64)
                values[name] = pd.Series(column)
        return values, {name: str(units[name]) for name in wanted if units[name]}

    return names, load


def _as_text(series: pd.Series) -> np.ndarray:
    text = series.astype(object).where(series.notna(), "").astype(str).str.strip().to_numpy(dtype=object)
    return np.array(["" if t.lower() in MISSING else t for t in text], dtype=object)


def _as_number(series: pd.Series, name: str, path: Path) -> np.ndarray:
    if series.dtype.kind == "f":
        return series.to_numpy(np.float64)
    numbers = pd.to_numeric(series, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    text = series.astype(object).where(series.notna(), "").astype(str).str.strip().str.lower()
    bad = np.flatnonzero(np.isnan(numbers) & ~text.isin(MISSING).to_numpy())
    if bad.size:
        raise HbcalError(
            f"Column {name!r} of {path.name} has text where a number is needed in {bad.size} row(s), first "
            f"{series.iloc[bad[0]]!r} in row {bad[0] + 1}: correct or empty them."
        )
    return numbers


def to_unit(values: np.ndarray, have: str, want: str, what: str) -> np.ndarray:
    """Convert values from the unit a file states to the unit a recipe wants.

    ``dex`` is the same as no unit and as any ``dex(...)``: log g is written all three ways.

    Args:
        values: shape (n_row,), in `have`.
        have: unit as astropy reads it; "" when the file states none, and then nothing is converted.
        want: unit of the recipe.
        what: names the column in the error message.

    Returns:
        Values in `want`.

    Errors:
        HbcalError when the units do not convert, or are not units.

    Example:
        >>> to_unit(np.array([5.0]), "kK", "K", "column 'teff'").tolist()
        [5000.0]
    """
    if not have or not want or have == want:
        return values
    from astropy import units as u

    try:
        one, other = u.Unit(have), u.Unit(want)
    except ValueError:
        raise HbcalError(f"The {what} has unit {have!r}, wanted {want!r}: one of them is not a unit astropy knows.") from None
    logs = [isinstance(x, u.function.FunctionUnitBase) or x in (u.dex, u.dimensionless_unscaled) for x in (one, other)]
    if all(logs):
        return values
    try:
        return values * one.to(other) if not any(logs) else _refuse(what, have, want)
    except u.UnitConversionError:
        return _refuse(what, have, want)


def _refuse(what: str, have: str, want: str) -> np.ndarray:
    raise HbcalError(f"The {what} is in {have!r}, which cannot be converted to {want!r}: correct the unit or the recipe.")


def unique_columns(names: Iterable[str]) -> list[str]:
    """Names without repeats and empties, in order.

    Args:
        names: column names, some of them "".

    Returns:
        The names, each once.

    Errors:
        None.

    Example:
        >>> unique_columns(["a", "", "b", "a"])
        ['a', 'b']
    """
    return list(dict.fromkeys(name for name in names if name))
