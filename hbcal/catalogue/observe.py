"""From a recipe and a folder to a `Catalogue`: read each file, check each number, count what is left out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from hbcal._errors import HbcalError, closest, some
from hbcal.catalogue.catalogue import Catalogue
from hbcal.catalogue.read import Columns, Kind, read_columns, to_unit, unique_columns
from hbcal.recipe import CovariateSpec, DataSpec, Recipe

LONG = ("star", "survey", "label", "value", "error")


def observe(recipe: Recipe, folder: Path) -> Catalogue:
    """Read what a recipe declares.

    Args:
        recipe: names the files, their columns and the units of labels and covariates.
        folder: where the files are.

    Returns:
        The `Catalogue`, values in the recipe's units, rows left out counted by reason.

    Errors:
        HbcalError for anything wrong with a file, a column or a number: what, where, how many, what to do.

    Example:
        See `tests/catalogue/test_observe.py`.
    """
    if not folder.is_dir():
        raise HbcalError(f"The data folder {folder} does not exist: check --data.")
    if not recipe.data:
        raise HbcalError(f"The recipe {recipe.name!r} names no data: add a [[data]] entry.")
    left_out: Counter[str] = Counter()
    frames, tables, sources = [], [], []
    for entry in recipe.data:
        path = folder / entry.file
        columns = read_columns(path, wanted_columns(entry, path, recipe), entry.missing)
        sources.append({"file": entry.file, "rows": columns.n_row, "sha256": _sha256(path)})
        keep = _keep(entry, columns, left_out)
        ids = columns.values[_star_column(entry)]
        nameless = int((ids == "").sum())
        if nameless:
            raise HbcalError(f"{path.name} has {nameless} row(s) without a star id: fill them in or remove them.")
        if entry.layout != "long" and not entry.visits:
            _refuse_duplicates(ids[keep], path.name, entry.layout)
        if entry.layout == "long":
            frames.append(long_rows(entry, columns, recipe)[keep])
        elif entry.layout == "wide":
            frames += [frame[keep] for frame in wide_rows(entry, columns, recipe)]
        for name, spec in entry.covariates.items():
            u = read_covariate(columns, spec.column, spec.unit, name, recipe.covariates[name])
            tables.append(pd.DataFrame({"star": ids, "survey": spec.survey, "name": name, "x": u})[keep])
    if not frames:
        raise HbcalError(f"The recipe {recipe.name!r} names no file with measurements: add a long or a wide one.")
    rows = check_rows(pd.concat(frames, ignore_index=True), recipe, left_out)
    return _assemble(recipe, rows, tables, left_out, sources)


def _star_column(entry: DataSpec) -> str:
    return entry.columns.get("star", entry.star)


def wanted_columns(entry: DataSpec, path: Path, recipe: Recipe) -> dict[str, Kind]:
    """The columns a data entry needs, and whether each is text or a number.

    Args:
        entry: of the recipe.
        path: the file; a long table may lack its error column, or have two.
        recipe: for the kinds of the covariates.

    Returns:
        Column name -> kind.

    Errors:
        HbcalError when the file cannot be opened.

    Example:
        See `tests/catalogue/test_observe.py`.
    """
    from hbcal.catalogue.read import column_names

    wanted: dict[str, Kind] = {_star_column(entry): "text"}
    if entry.layout == "long":
        there = set(column_names(path))
        for role in ("survey", "label", "value"):
            wanted[entry.columns.get(role, role)] = "number" if role == "value" else "text"
        for role in ("error", "error_lower", "error_upper"):
            name = entry.columns.get(role, role)
            if role in entry.columns or name in there:
                wanted[name] = "number"
    for m in entry.measurements:
        wanted |= dict.fromkeys((m.value, *m.error), "number")
    for name, spec in entry.covariates.items():
        wanted[spec.column] = "text" if recipe.covariates[name].levels else "number"
    for name, values in entry.keep.items():
        wanted.setdefault(name, "text" if any(isinstance(v, str) for v in values) else "number")
    for name in entry.within:
        wanted[name] = "number"
    return {name: wanted[name] for name in unique_columns(wanted)}


def _keep(entry: DataSpec, columns: Columns, left_out: Counter[str]) -> np.ndarray:
    keep = np.ones(columns.n_row, bool)
    for name, allowed in entry.keep.items():
        ok = np.isin(columns.values[name].astype(object), np.array([*allowed], dtype=object))
        left_out[f"{name} not among the values kept"] += int((keep & ~ok).sum())
        keep &= ok
    for name, (low, high) in entry.within.items():
        ok = (columns.values[name] >= low) & (columns.values[name] <= high)
        left_out[f"{name} outside [{low:g}, {high:g}]"] += int((keep & ~ok).sum())
        keep &= ok
    if not keep.any():
        raise HbcalError(f"No row of {columns.path.name} passes the recipe's filters: loosen keep or within.")
    return keep


def _refuse_duplicates(ids: np.ndarray, name: str, layout: str) -> None:
    unique, counts = np.unique(ids.astype(str), return_counts=True)
    twice = unique[counts > 1]
    if twice.size:
        how = "if they are repeated visits, set visits = true in the recipe" if layout == "wide" else "keep one of each"
        raise HbcalError(f"{name} has {twice.size} star id(s) in more than one row, {some(twice)}: {how}.")


def long_rows(entry: DataSpec, columns: Columns, recipe: Recipe) -> pd.DataFrame:
    """Rows of a long table: star, survey, label, value, error (text names, numbers in the recipe's units).

    Args:
        entry: its data entry.
        columns: what was read.
        recipe: for units.

    Returns:
        A frame with columns star, survey, label, value, error, file and row.

    Errors:
        HbcalError for a negative or zero or infinite error, an unknown survey or label.

    Example:
        See `tests/catalogue/test_observe.py`.
    """
    get = {role: columns.values.get(entry.columns.get(role, role)) for role in (*LONG, "error_lower", "error_upper")}
    get["star"] = columns.values[_star_column(entry)]
    if get["error"] is None and get["error_lower"] is not None and get["error_upper"] is not None:
        get["error"] = 0.5 * (get["error_lower"] + get["error_upper"])
        check_errors(get["error_lower"], "error_lower", columns.path.name)
        check_errors(get["error_upper"], "error_upper", columns.path.name)
    if get["error"] is None:
        get["error"] = np.full(columns.n_row, np.nan)
    check_errors(get["error"], "error", columns.path.name)
    for role, known in (("survey", recipe.surveys), ("label", recipe.labels)):
        names = np.asarray(get[role]).astype(str)
        unknown = [n for n in np.unique(names) if n not in known]
        if unknown:
            n_row = int(np.isin(names, unknown).sum())
            raise HbcalError(
                f"{columns.path.name} has {n_row} row(s) of unknown {role} {some(unknown)}{closest(unknown[0], known)}: "
                f"declare it in the recipe, or filter it with keep."
            )
    frame = pd.DataFrame({role: get[role] for role in LONG})
    unit = columns.units.get(entry.columns.get("value", "value"), "")
    if unit:
        for label in frame["label"].unique():
            at = (frame["label"] == label).to_numpy()
            for role in ("value", "error"):
                what = f"{role} column of {columns.path.name} for label {label!r}"
                frame.loc[at, role] = to_unit(frame.loc[at, role].to_numpy(), unit, recipe.unit(label), what)
    return frame.assign(file=columns.path.name, row=np.arange(1, columns.n_row + 1))


def wide_rows(entry: DataSpec, columns: Columns, recipe: Recipe) -> list[pd.DataFrame]:
    """Rows of a wide table, one frame per measurement column, each as `long_rows` gives it.

    Args:
        entry: its data entry, with the map from columns to (survey, label).
        columns: what was read.
        recipe: for units.

    Returns:
        One frame per measurement, n_row rows each; NaN values are still there.

    Errors:
        HbcalError for bad errors, or values that a transform cannot take.

    Example:
        See `tests/catalogue/test_observe.py`.
    """
    frames = []
    for m in entry.measurements:
        value, where = columns.values[m.value], f"column {m.value!r} of {columns.path.name}"
        error = np.full(columns.n_row, np.nan)
        for name in m.error:
            check_errors(columns.values[name], name, columns.path.name)
        if m.error:
            error = np.mean([columns.values[name] for name in m.error], axis=0)
        if m.transform == "log10":
            bad = int((value <= 0).sum())
            if bad:
                raise HbcalError(f"The {where} has {bad} value(s) <= 0, of which log10 cannot be taken: empty them.")
            value, error = np.log10(value), error / (value * np.log(10.0))
        else:
            have, want = m.unit or columns.units.get(m.value, ""), recipe.unit(m.label)
            value = to_unit(value, have, want, where)
            if m.error:
                error = to_unit(error, columns.units.get(m.error[0], "") or have, want, f"error of {where}")
        frame = pd.DataFrame({"star": columns.values[_star_column(entry)], "survey": m.survey, "label": m.label})
        frames.append(
            frame.assign(value=value, error=error, file=columns.path.name, row=np.arange(1, columns.n_row + 1))
        )
    return frames


def check_errors(error: np.ndarray, name: str, file: str) -> None:
    """Refuse errors that are not positive numbers.

    Args:
        error: (n_row,), NaN where the survey gives none.
        name, file: of the column.

    Returns:
        Nothing.

    Errors:
        HbcalError for negative, zero or infinite errors, with their number and the first row.

    Example:
        >>> check_errors(np.array([0.1, -1.0]), "e", "t.csv")
        Traceback (most recent call last):
        hbcal._errors.HbcalError: Column 'e' of t.csv has 1 negative error(s), first in row 2: an error is positive; leave it empty where the survey gives none.
    """
    for bad, word in ((error < 0, "negative"), (error == 0, "zero"), (np.isinf(error), "infinite")):
        n = int(bad.sum())
        if n:
            row = int(np.flatnonzero(bad)[0]) + 1
            raise HbcalError(
                f"Column {name!r} of {file} has {n} {word} error(s), first in row {row}: an error is positive; leave it "
                "empty where the survey gives none."
            )


def read_covariate(columns: Columns, column: str, unit: str, name: str, spec: CovariateSpec) -> np.ndarray:
    """A covariate's column as numbers: converted to its unit, or the number of its level, or 0/1 for flags.

    Args:
        columns: what was read.
        column: the column's name.
        unit: stated by the recipe for a file that states none.
        name: of the covariate.
        spec: its declaration.

    Returns:
        Array (n_row,) with NaN where missing; a level the recipe does not know is -1.

    Errors:
        HbcalError when more than half of the values lie outside the declared range, or one is infinite.

    Example:
        See `tests/catalogue/test_observe.py`.
    """
    raw = columns.values[column]
    where = f"column {column!r} of {columns.path.name}"
    if spec.levels:
        number = {level: float(i) for i, level in enumerate(spec.all_levels)}
        missing = number[spec.missing] if spec.missing else np.nan
        return np.array([missing if text == "" else number.get(text, -1.0) for text in raw])
    if spec.bits:
        mask = sum(1 << bit for bit in spec.bits)
        return np.array([np.nan if np.isnan(v) else float(bool(int(v) & mask)) for v in raw])
    value = to_unit(raw, unit or columns.units.get(column, ""), spec.unit, where)
    return in_range(value, spec.range, where, spec.unit)[0]


def in_range(
    value: np.ndarray, limits: tuple[float, float], where: str, unit: str
) -> tuple[np.ndarray, int]:
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


def check_rows(rows: pd.DataFrame, recipe: Recipe, left_out: Counter[str]) -> pd.DataFrame:
    """Drop rows without a value, count them, refuse exact copies.

    Args:
        rows: as `long_rows` gives them.
        recipe: for the labels' ranges.
        left_out: is added to.

    Returns:
        Rows with finite values.

    Errors:
        HbcalError for infinite values, a wrong unit, exact copies of a measurement.

    Example:
        See `tests/catalogue/test_observe.py`.
    """
    for (survey, label), at in rows.groupby(["survey", "label"], sort=False).groups.items():
        where = f"{label} of survey {survey!r} in {rows.loc[at[0], 'file']}"
        value, n = in_range(rows.loc[at, "value"].to_numpy(), recipe.labels[label].range, where, recipe.unit(label))
        rows.loc[at, "value"] = value
        left_out[f"{label} of {survey} outside its range"] += n
        rows.loc[at, "impossible"] = n > 0
    missing = rows["value"].isna()
    left_out["no value"] += int(missing.sum()) - sum(v for k, v in left_out.items() if k.endswith("outside its range"))
    rows = rows[~missing]
    with_error = rows[rows["error"].notna()]
    copies = with_error.duplicated(["star", "survey", "label", "value", "error"])
    if copies.any():
        first = with_error[copies].iloc[0]
        raise HbcalError(
            f"{int(copies.sum())} measurement(s) are exact copies of another (same star, survey, label, value and "
            f"error), first star {first['star']!r} in {first['file']} row {first['row']}: remove the copies; repeated "
            "visits have values of their own."
        )
    return rows


def _assemble(
    recipe: Recipe,
    rows: pd.DataFrame,
    tables: list[pd.DataFrame],
    left_out: Mapping[str, int],
    sources: list[dict[str, object]],
) -> Catalogue:
    surveys, labels, names = tuple(recipe.surveys), tuple(recipe.labels), tuple(recipe.covariates)
    star, stars = pd.factorize(rows["star"].astype(str))
    survey = pd.Categorical(rows["survey"], categories=list(surveys)).codes.astype(np.int64)
    label = pd.Categorical(rows["label"], categories=list(labels)).codes.astype(np.int64)
    value, error = rows["value"].to_numpy(float), rows["error"].to_numpy(float)
    x = np.full((len(stars), len(surveys), len(names)), np.nan)
    star_level = np.ones(len(names), bool)
    index = pd.Index(stars)
    for table in tables:
        at, c = index.get_indexer(table["star"].astype(str)), names.index(table["name"].iloc[0])
        mean = table.assign(at=at)[at >= 0].groupby("at")["x"].mean()
        owner = table["survey"].iloc[0]
        where = slice(None) if not owner else surveys.index(owner)
        star_level[c] &= not owner
        got = mean.to_numpy()[:, None] if not owner else mean.to_numpy()
        x[mean.index.to_numpy(), where, c] = got
    for c, (name, spec) in enumerate(recipe.covariates.items()):
        target = spec.own or spec.consensus
        if not target:
            continue
        here = label == labels.index(target)
        table = pd.DataFrame({"star": star[here], "survey": survey[here], "value": value[here]})
        each = table.groupby(["star", "survey"])["value"].mean()
        i, s = (each.index.get_level_values(k).to_numpy() for k in (0, 1))
        if spec.own:
            x[i, s, c], star_level[c] = each.to_numpy(), False
        else:
            middle = each.groupby(level=0).median()
            x[middle.index.to_numpy(), :, c] = middle.to_numpy()[:, None]
        del name
    counts = {k: int(v) for k, v in left_out.items() if v}
    return Catalogue(
        np.asarray(stars, dtype=object), surveys, labels, names, star, survey, label, value, error, x, star_level,
        counts, tuple(sources),
    )  # fmt: skip


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
