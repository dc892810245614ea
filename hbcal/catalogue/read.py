"""Read named columns from CSV, ECSV, Parquet or FITS, as plain arrays; whatever is wrong is one sentence."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from hbcal._errors import HbcalError, closest, some

Kind = Literal["number", "text", "either"]
MISSING = frozenset({"", "nan", "na", "n/a", "null", "none", "--", "<na>"})


@dataclass(frozen=True)
class Columns:
    """Columns of one file: arrays of equal length (float64 with NaN, or str with ""), and the units the file states.

    `row` numbers the rows as they are in the file, from 1, whatever was filtered out.
    """

    path: Path
    values: Mapping[str, np.ndarray]
    units: Mapping[str, str]
    row: np.ndarray

    @property
    def n_row(self) -> int:
        """Number of rows."""
        return len(self.row)

    def unit(self, name: str, stated: str) -> str:
        """Unit of a column: what the file says, else what the recipe states; never two answers."""
        said = self.units.get(name, "")
        if said and stated and not same_unit(said, stated):
            raise HbcalError(
                f"The column {name!r} of {self.path.name} is in {said!r} by the file and in {stated!r} by the recipe: "
                "correct one of them."
            )
        return said or stated

    def select(self, keep: np.ndarray) -> Columns:
        """Only some rows; keep: (n_row,) bool."""
        return replace(self, values={name: v[keep] for name, v in self.values.items()}, row=self.row[keep])


SENTINELS = (-9999.0, -999.0)  # surveys write these where they know nothing


def read_columns(path: Path, wanted: Mapping[str, Kind], missing: tuple[float, ...] = ()) -> Columns:
    """Read the columns a recipe names, and no others.

    Args:
        path: a ``.csv``, ``.csv.gz``, ``.ecsv``, ``.parquet`` or ``.fits`` file, or an ``.nc`` of the label schema.
        wanted: column name -> ``"number"`` (float64, NaN where missing) or ``"text"`` (str, "" where missing; integer
            identifiers become their digits and never pass through a float); ``"either"``: text where it holds words
            alone, and no number.
        missing: numbers that mean "no value" in this file, such as -9999.

    Returns:
        `Columns` with arrays of shape (n_row,), in the file's order and units.

    Errors:
        HbcalError when the file is missing, empty, truncated or of another kind, lacks a column, has text where a
        number is needed, or several values a row in a column that is wanted.

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
    names, vectors, load = _open(path)
    several = [name for name in wanted if name in vectors]
    if several:
        raise HbcalError(
            f"{path.name} has several values a row in {len(several)} column(s) that are needed, {some(several)}: write "
            "each value to a column of its own."
        )
    lacking = [name for name in wanted if name not in names]
    if lacking:
        raise HbcalError(
            f"{path.name} lacks {len(lacking)} column(s) that are needed, {some(lacking)}"
            f"{closest(lacking[0], names) if len(names) < 60 else closest(lacking[0], names).split(' (allowed')[0]}: "
            "add them or correct the recipe."
        )
    with _one_sentence(path):
        values, units = load(list(wanted))
    out = {}
    for name, kind in wanted.items():
        if kind == "text" or (kind == "either" and _only_words(values[name])):
            text = _as_text(values[name], name, path)
            out[name] = np.where(np.isin(text.astype(str), [f"{m:.17g}" for m in missing]), "", text)
        else:
            number = _as_number(values[name], name, path)
            out[name] = np.where(np.isin(number, missing), np.nan, number)
    n_row = len(next(iter(out.values()))) if out else 0
    if n_row == 0:
        raise HbcalError(f"{path.name} has no rows: there is nothing to read.")
    return Columns(path, out, units, np.arange(1, n_row + 1))


def sha256(path: Path) -> str:
    """Checksum of a file.

    Args:
        path: of the file.

    Returns:
        Its SHA-256, hexadecimal.

    Errors:
        OSError when it cannot be read.

    Example:
        >>> sha256(tiny_folder() / "stars.parquet")[:8].isalnum()
        True
    """
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def column_names(path: Path) -> list[str]:
    """Names of a file's columns, without reading the rows.

    Args:
        path: as for `read_columns`.

    Returns:
        The names, in order; columns with several values a row are left out, since they cannot be read.

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


def _open(path: Path) -> tuple[list[str], list[str], Any]:
    """Names of a file's columns, of those with several values a row, and a function that loads some of the former."""
    kinds = {".csv": _csv, ".ecsv": _ecsv, ".parquet": _parquet, ".fits": _fits, ".fit": _fits, ".nc": _nc}
    suffixes = [s.lower() for s in path.suffixes]
    kind = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else (suffixes[-1] if suffixes else "")
    if kind not in kinds:
        raise HbcalError(
            f"{path.name} is of an unknown kind: hbcal reads .csv, .csv.gz, .ecsv, .parquet, .fits and its own .nc."
        )
    with _one_sentence(path):
        return kinds[kind](path)


@contextlib.contextmanager
def _one_sentence(path: Path) -> Iterator[None]:
    """Whatever a library says about a damaged file, as one sentence; some find the damage only when rows are loaded."""
    try:
        yield
    except HbcalError:
        raise
    except (OSError, EOFError, ValueError, TypeError, KeyError, IndexError, zlib.error, Warning) as error:
        first = str(error).strip().splitlines()[0].strip(" .") if str(error).strip() else type(error).__name__
        raise HbcalError(
            f"{path.name} cannot be read; it may be truncated, damaged or of another kind ({first[:160]}): "
            "get it again."
        ) from None


def _csv(path: Path) -> tuple[list[str], list[str], Any]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as handle:
        content = handle.read()  # once: a truncated gzip stream fails here
    if not content.strip():
        raise HbcalError(f"{path.name} is empty: there is not even a header.")
    names = [
        str(name) for name in pd.read_csv(io.BytesIO(content), nrows=1, header=None, dtype=str, na_filter=False).iloc[0]
    ]
    twice = [name for name, n in Counter(names).items() if n > 1 and name]
    if twice:
        raise HbcalError(f"{path.name} has {len(twice)} column name(s) more than once, {some(twice)}: rename them.")
    _refuse_ragged(content, len(names), path.name)

    def load(wanted: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
        frame = pd.read_csv(io.BytesIO(content), usecols=wanted, dtype=str, keep_default_na=False, index_col=False)
        return {name: frame[name] for name in wanted}, {}

    return names, [], load


def _refuse_ragged(content: bytes, n_field: int, name: str) -> None:
    """Every line has as many fields as the header: pandas would fill short lines and shift long ones, silently."""
    byte = np.frombuffer(content if content.endswith(b"\n") else content + b"\n", np.uint8)
    outside = (
        np.cumsum(byte == ord('"'), dtype=np.uint8) % 2 == 0
    )  # of quotes, inside which commas and newlines are text
    end = np.flatnonzero((byte == ord("\n")) & outside)
    n_comma = np.diff(np.searchsorted(np.flatnonzero((byte == ord(",")) & outside), end), prepend=0)
    length = np.diff(end, prepend=-1) - 1
    blank = (length == 0) | ((length == 1) & (byte[end - 1] == ord("\r")))
    bad = np.flatnonzero((n_comma + 1 != n_field) & ~blank)
    if bad.size and bad[0] == len(end) - 1 and n_comma[-1] + 1 < n_field:
        raise HbcalError(f"{name} is truncated: its last line has {n_comma[-1] + 1} of {n_field} fields; get it again.")
    if bad.size:
        raise HbcalError(
            f"{name} is damaged: {bad.size} line(s) have more or fewer than the header's {n_field} fields, first line "
            f"{bad[0] + 1} with {n_comma[bad[0]] + 1}: correct them, or quote what contains a comma."
        )


def _ecsv(path: Path) -> tuple[list[str], list[str], Any]:
    from astropy.table import Column, Table

    table = Table.read(path, format="ascii.ecsv")
    vectors = [name for name in table.colnames if not isinstance(table[name], Column) or table[name].ndim > 1]
    load = lambda wanted: (  # noqa: E731
        {name: _from_astropy(table[name]) for name in wanted},
        {name: str(table[name].unit) for name in wanted if table[name].unit is not None},
    )
    return _others(table.colnames, vectors), vectors, load


def _others(names: Iterable[str], vectors: list[str]) -> list[str]:
    return [name for name in names if name not in vectors]


def _from_astropy(column: Any) -> pd.Series:
    if column.dtype.kind == "f":
        return pd.Series(np.ma.filled(column.astype(np.float64), np.nan))
    mask = np.ma.getmaskarray(column)
    return pd.Series(np.ma.getdata(column).astype(object)).where(~mask, None)


def _parquet(path: Path) -> tuple[list[str], list[str], Any]:
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
        units = {
            n: schema.field(n).metadata[b"unit"].decode() for n in wanted if b"unit" in (schema.field(n).metadata or {})
        }
        return values, units

    vectors = [field.name for field in schema if pa.types.is_nested(field.type)]
    return _others(schema.names, vectors), vectors, load


def _fits(path: Path) -> tuple[list[str], list[str], Any]:
    from astropy.io import fits

    with warnings.catch_warnings(record=True) as heard, path.open("rb") as file, fits.open(file) as hdus:
        warnings.simplefilter("always")
        table = next((h for h in hdus if isinstance(h, fits.BinTableHDU | fits.TableHDU)), None)
        columns = () if table is None else [(c.name, c.unit) for c in table.columns]
        vectors = [] if table is None else [name for name in table.columns.names if table.columns.dtype[name].shape]
    for warning in heard:
        if table is None or "truncated" in str(warning.message):  # a cut file is no more than a warning there
            raise ValueError(str(warning.message))
    if table is None:
        raise HbcalError(f"{path.name} has no table extension: give a FITS file with one.")
    names, units = _others((name for name, _ in columns), vectors), dict(columns)

    def load(wanted: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
        values = {}
        with path.open("rb") as file, fits.open(file) as hdus:
            table = next(h for h in hdus if isinstance(h, fits.BinTableHDU | fits.TableHDU))
            for name in wanted:
                column: Any = np.array(table.data[name])
                if column.dtype.kind in "iu":
                    null = table.columns[name].null
                    missing = np.zeros(len(column), bool) if null is None else column == null
                    column = np.where(missing, None, column.astype(object))
                elif column.dtype.kind == "f":
                    column = column.astype(np.float64)
                values[name] = pd.Series(column)
        return values, {name: str(units[name]) for name in wanted if units[name]}

    return names, vectors, load


def _nc(path: Path) -> tuple[list[str], list[str], Any]:
    from hbcal.catalogue.label_schema import schema_columns  # which knows recipes, and they know of files

    names, load = schema_columns(path)
    return names, [], load


def _as_text(series: pd.Series, name: str, path: Path) -> np.ndarray:
    if series.dtype.kind == "f":  # whole numbers that a missing value turned into floats
        value = series.to_numpy(np.float64)
        large = int((np.abs(value) >= 2.0**53).sum())
        if large:
            raise HbcalError(
                f"Column {name!r} of {path.name} is text or an id but is stored as floating point, with {large} "
                "number(s) too large for it to be exact: store it as integers or as text."
            )
        whole = np.isfinite(value) & (value == np.floor(value))
        series = pd.Series([int(v) if w else v for v, w in zip(value, whole, strict=True)], dtype=object)
    text = _stripped(series).to_numpy(dtype=object)
    return np.array(["" if t.lower() in MISSING else t for t in text], dtype=object)


def _stripped(series: pd.Series) -> pd.Series:
    return series.astype(object).where(series.notna(), "").astype(str).str.strip()


def _only_words(series: pd.Series) -> bool:
    if series.dtype.kind in "fbiu":
        return False
    some = ~_stripped(series).str.lower().isin(MISSING)
    return bool(some.any() and pd.to_numeric(series, errors="coerce").isna().all())


def _as_number(series: pd.Series, name: str, path: Path) -> np.ndarray:
    if series.dtype.kind == "f":
        return series.to_numpy(np.float64)
    numbers = pd.to_numeric(series, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    bad = np.flatnonzero(np.isnan(numbers) & ~_stripped(series).str.lower().isin(MISSING).to_numpy())
    if bad.size:
        raise HbcalError(
            f"Column {name!r} of {path.name} has text where a number is needed in {bad.size} row(s), first "
            f"{series.iloc[bad[0]]!r} in row {bad[0] + 1}: correct or empty them."
        )
    return numbers


def same_unit(one: str, other: str) -> bool:
    """Whether two texts name the same unit.

    Args:
        one, other: as astropy reads units; anything else is compared as text.

    Returns:
        True when they are the same.

    Errors:
        None.

    Example:
        >>> same_unit("uHz", "1e-6 Hz"), same_unit("uHz", "Hz")
        (True, False)
    """
    from astropy import units as u

    try:
        return one == other or u.Unit(one) == u.Unit(other)
    except ValueError:
        return False


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
