"""Numbers of a column made fit for use: units converted, errors positive, the impossible emptied or refused."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from hbcal._errors import HbcalError, some
from hbcal.catalogue.read import Columns
from hbcal.recipe import ColumnSpec, CovariateSpec, MeasurementSpec


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
        raise HbcalError(
            f"The {what} has unit {have!r}, wanted {want!r}: one of them is not a unit astropy knows."
        ) from None
    logs = [isinstance(x, u.function.FunctionUnitBase) or x in (u.dex, u.dimensionless_unscaled) for x in (one, other)]
    if all(logs):
        return values
    try:
        return values * one.to(other) if not any(logs) else _refuse(what, have, want)
    except u.UnitConversionError:
        return _refuse(what, have, want)


def _refuse(what: str, have: str, want: str) -> np.ndarray:
    raise HbcalError(
        f"The {what} is in {have!r}, which cannot be converted to {want!r}: correct the unit or the recipe."
    )


def read_linear(columns: Columns, name: str, stated: str, transform: str, want: str) -> np.ndarray:
    """A column in the unit in which it is used, before any log10 is taken.

    Args:
        columns: what was read.
        name: of the column.
        stated: unit the recipe gives: the column's where the file states none; with ``log10``, the unit whose number
            the logarithm is taken of.
        transform: ``"none"`` or ``"log10"``.
        want: unit of what comes out of the transform; it matters only without one.

    Returns:
        Values, (n_row,).

    Errors:
        HbcalError when a unit does not convert, or file and recipe contradict each other.

    Example:
        >>> from pathlib import Path
        >>> table = Columns(Path("t.fits"), {"teff": np.array([5.0])}, {"teff": "kK"}, np.array([1]))
        >>> read_linear(table, "teff", "", "none", "K").tolist()
        [5000.0]
    """
    where = f"column {name!r} of {columns.path.name}"
    if transform == "log10":
        return to_unit(columns.values[name], columns.units.get(name, ""), stated, where)
    return to_unit(columns.values[name], columns.unit(name, stated), want, where)


def read_measurement(columns: Columns, m: MeasurementSpec, want: str) -> tuple[np.ndarray, np.ndarray]:
    """Value and error of one measurement of a wide table.

    Args:
        columns: what was read.
        m: its columns, unit and transform; of two error columns the mean is taken.
        want: unit of the label.

    Returns:
        Value and error, (n_row,), label unit, NaN where missing; also where log10 has no value.

    Errors:
        HbcalError for errors that are not positive, or a wrong unit.

    Example:
        >>> from pathlib import Path
        >>> table = Columns(Path("t.csv"), {"nu": np.array([100.0]), "e": np.array([1.0])}, {}, np.array([1]))
        >>> m = MeasurementSpec("SYD", "log_numax", "nu", ("e",), transform="log10")
        >>> [float(x[0].round(4)) for x in read_measurement(table, m, "dex")]
        [2.0, 0.0043]
    """
    for name in m.error:
        check_errors(columns.values[name], name, columns.path.name, columns.row)
    value = read_linear(columns, m.value, m.unit, m.transform, want)
    error = np.full(columns.n_row, np.nan)
    if m.error:
        target = m.unit if m.transform == "log10" else want
        have = columns.units.get(m.error[0], "") or columns.units.get(m.value, "") or m.unit
        what = f"error of column {m.value!r} of {columns.path.name}"
        error = to_unit(np.mean([columns.values[name] for name in m.error], axis=0), have, target, what)
    if m.transform == "log10":
        value = np.where(value > 0, value, np.nan)
        value, error = np.log10(value), error / (value * np.log(10.0))
    return value, error


def refuse_no_log10(raw: np.ndarray, where: str) -> None:
    """Refuse a column of which log10 cannot be taken.

    Args:
        raw: (n_row,), any unit.
        where: names the column.

    Returns:
        Nothing.

    Errors:
        HbcalError with the number of values <= 0.

    Example:
        >>> refuse_no_log10(np.array([1.0, 0.0]), "column 'nu'")
        Traceback (most recent call last):
        hbcal._errors.HbcalError: The column 'nu' has 1 value(s) <= 0, of which log10 cannot be taken: empty them.
    """
    bad = int((raw <= 0).sum())
    if bad:
        raise HbcalError(f"The {where} has {bad} value(s) <= 0, of which log10 cannot be taken: empty them.")


def check_errors(error: np.ndarray, name: str, file: str, row: np.ndarray | None = None) -> None:
    """Refuse errors that are not positive numbers.

    Args:
        error: (n_row,), NaN where the survey gives none.
        name, file: of the column.
        row: number of each row in the file, (n_row,); 1, 2, ... where None.

    Returns:
        Nothing.

    Errors:
        HbcalError for negative, zero or infinite errors, with their number and the first row.

    Example:
        >>> check_errors(np.array([0.1, -1.0]), "e", "t.csv")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        hbcal._errors.HbcalError: Column 'e' of t.csv has 1 negative error(s), first in row 2: an error is positive; ...
    """
    for bad, word in ((error < 0, "negative"), (error == 0, "zero"), (np.isinf(error), "infinite")):
        n = int(bad.sum())
        if n:
            first = int(np.flatnonzero(bad)[0])
            raise HbcalError(
                f"Column {name!r} of {file} has {n} {word} error(s), first in row "
                f"{first + 1 if row is None else row[first]}: an error is positive; leave it "
                "empty where the survey gives none."
            )


def refuse_repeats(star: np.ndarray, file: str) -> None:
    """Refuse a table that has a star in more than one row.

    Args:
        star: ids, (n_row,); rows without one are no star's.
        file: name of the table.

    Returns:
        Nothing.

    Errors:
        HbcalError with the number of such stars, and their ids.

    Example:
        >>> refuse_repeats(np.array(["a", "b", "a"]), "t.csv")
        Traceback (most recent call last):
        hbcal._errors.HbcalError: t.csv has 1 star(s) in more than one row, 'a': keep one of each.
    """
    each, counts = np.unique(star[star != ""].astype(str), return_counts=True)
    if (counts > 1).any():
        raise HbcalError(
            f"{file} has {int((counts > 1).sum())} star(s) in more than one row, {some(each[counts > 1])}: keep one of "
            "each."
        )


def read_covariate(columns: Columns, column: ColumnSpec, spec: CovariateSpec) -> np.ndarray:
    """A covariate's column as numbers: converted to its unit, or the number of its level, or 0/1 for flags.

    Args:
        columns: what was read.
        column: where it is, in what unit, and whether its log10 is meant.
        spec: the covariate's declaration.

    Returns:
        Array (n_row,) with NaN where missing; a level the recipe does not know is -1.

    Errors:
        HbcalError when more than half of the values lie outside the declared range, one is infinite, or has no log10.

    Example:
        >>> from pathlib import Path
        >>> table = Columns(Path("t.csv"), {"period": np.array([10.0, 100.0])}, {}, 2)
        >>> read_covariate(table, ColumnSpec("period", transform="log10"), CovariateSpec()).tolist()
        [1.0, 2.0]
    """
    raw = columns.values[column.column]
    where = f"column {column.column!r} of {columns.path.name}"
    if spec.levels:
        number = {level: float(i) for i, level in enumerate(spec.all_levels)}
        missing = number[spec.missing] if spec.missing else np.nan
        return np.array([missing if text == "" else number.get(text, -1.0) for text in raw])
    if spec.bits:
        mask = sum(1 << bit for bit in spec.bits)
        flags = in_range(raw, (0.0, 2.0**53), where, "")[0]  # the integers that a float64 holds exactly
        return np.array([np.nan if np.isnan(v) else float(bool(int(v) & mask)) for v in flags])
    value = read_linear(columns, column.column, column.unit, column.transform, spec.unit)
    if column.transform == "log10":
        refuse_no_log10(value, where)
        value = np.log10(value)
    return in_range(value, spec.range, where, spec.unit)[0]


def in_range(value: np.ndarray, limits: tuple[float, float], where: str, unit: str) -> tuple[np.ndarray, int]:
    """Empty what cannot be true; refuse a column where that is most of it.

    Args:
        value: shape (n_row,), NaN where missing.
        limits: lowest and highest possible value, same unit.
        where: names the column.
        unit: for the message.

    Returns:
        Values with NaN for the impossible ones, and how many those are.

    Errors:
        HbcalError for infinite values, or when more than half are outside (the unit is probably wrong).

    Example:
        >>> in_range(np.array([5000.0, 5100.0, -9999.0]), (2500.0, 9000.0), "column", "K")[1]
        1
    """
    n_inf = int(np.isinf(value).sum())
    if n_inf:
        raise HbcalError(f"The {where} has {n_inf} infinite value(s): empty them.")
    low, high = limits
    bad = (value < low) | (value > high)
    n, n_value = int(bad.sum()), int(np.isfinite(value).sum())
    if n > 0.5 * n_value:
        raise HbcalError(
            f"The {where} has {n} of {n_value} values outside [{low:g}, {high:g}] {unit}, median "
            f"{np.nanmedian(value):.6g}: the unit or the column is probably wrong; correct it or the recipe's range."
        )
    return np.where(bad, np.nan, value), n


def rows_of(ids: Iterable[object], among: Iterable[object]) -> np.ndarray:
    """Where each id stands among others.

    Args:
        ids: to look for, compared as text.
        among: each at most once.

    Returns:
        Positions in `among`, (n_id,), -1 for an id that is not there.

    Errors:
        None.

    Example:
        >>> rows_of(["b", "z"], np.array(["a", "b"])).tolist()
        [1, -1]
    """
    place = {str(name): i for i, name in enumerate(among)}
    return np.array([place.get(str(name), -1) for name in ids], int)
