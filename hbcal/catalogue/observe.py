"""From a recipe and a folder to a `Catalogue`: read each file, check each number, count what is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from hbcal._errors import HbcalError, closest, some
from hbcal.catalogue.catalogue import Catalogue
from hbcal.catalogue.correlations import read_correlations, with_correlations
from hbcal.catalogue.filters import filter_columns, filtered
from hbcal.catalogue.label_schema import as_wide, flagged
from hbcal.catalogue.members import with_members
from hbcal.catalogue.read import Columns, Kind, column_names, read_columns, sha256, unique_columns
from hbcal.catalogue.values import check_errors, in_range, read_covariate, read_measurement, refuse_no_log10, to_unit
from hbcal.recipe import DataSpec, Recipe

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
        >>> from hbcal import load_recipe
        >>> catalogue = observe(load_recipe("textbook"), tiny_folder())
        >>> catalogue.surveys, catalogue.x.shape[1:]  # covariates per star and survey: x1, x2
        (('s0', 's1', 's2'), (3, 2))
    """
    if folder.is_file():
        raise HbcalError(f"The data folder {folder} is a file: --data names a folder.")
    if not folder.is_dir():
        raise HbcalError(f"The data folder {folder} does not exist: check --data.")
    if not recipe.data:
        raise HbcalError(f"The recipe {recipe.name!r} names no data: add a [[data]] entry.")
    left_out: Counter[str] = Counter()
    frames, tables, sources, long = [], [], [], set[str]()
    for entry in recipe.data:
        path = folder / entry.file
        names = column_names(path) if entry.layout == "labels" else []
        if entry.layout == "labels":
            entry = as_wide(entry, names, recipe)
        wanted = wanted_columns(entry, path, recipe)
        if "flag" in names:
            wanted.setdefault("flag", "text")  # for counting
        columns = read_columns(path, wanted, entry.missing)
        sources.append({"file": entry.file, "rows": columns.n_row, "sha256": sha256(path)})
        columns = filtered(columns, entry.keep, entry.within, left_out)  # what is filtered out need not be right
        if "flag" in names:
            answered = np.isfinite([columns.values[m.value] for m in entry.measurements]).any(axis=0)
            sources[-1]["flagged"] = int((flagged(columns) & answered).sum())
        ids = columns.values[_star_column(entry)]
        nameless = int((ids == "").sum())
        if nameless:
            raise HbcalError(f"{path.name} has {nameless} row(s) without a star id: fill them in or remove them.")
        if entry.layout != "long" and not entry.visits:
            _refuse_duplicates(ids, path.name, entry.layout)
        if entry.layout == "long":
            frames.append(long_rows(entry, columns, recipe))
            long.add(path.name)
        elif entry.layout == "wide":
            if recipe.program != "crosscal_correlated":  # a recipe's own are refused, those of the label schema not
                for pair in entry.correlations:
                    reason = f"correlations between labels in {path.name}: {recipe.program} takes the labels one by one"
                    left_out[reason] += int(np.isfinite(columns.values[pair.column]).sum())
                entry = replace(entry, correlations=())
            frames += wide_rows(entry, columns, recipe)
        for name, spec in entry.covariates.items():
            u = read_covariate(columns, spec, recipe.covariates[name])
            tables.append(pd.DataFrame({"star": ids, "survey": spec.survey, "name": name, "x": u}))
    if not frames:
        raise HbcalError(f"The recipe {recipe.name!r} names no file with measurements: add a long or a wide one.")
    rows = check_rows(pd.concat(frames, ignore_index=True), recipe, left_out)
    catalogue = _assemble(recipe, rows, tables, left_out, sources)
    if recipe.program == "crosscal_correlated":
        catalogue = with_correlations(catalogue, rows, long)
    return with_members(recipe, folder, catalogue)


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
        >>> from hbcal import load_recipe
        >>> recipe = load_recipe("textbook")
        >>> wanted_columns(recipe.data[1], tiny_folder() / "stars.parquet", recipe)
        {'star': 'text', 'x1': 'number', 'x2': 'number'}
    """
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
    wanted |= {spec.column: "number" for spec in entry.correlations}
    for name, spec in entry.covariates.items():
        wanted[spec.column] = "text" if recipe.covariates[name].levels else "number"
    wanted = filter_columns(entry.keep, entry.within) | wanted | dict.fromkeys(entry.within, "number")
    return {name: wanted[name] for name in unique_columns(wanted)}


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
        >>> from hbcal import load_recipe
        >>> recipe = load_recipe("textbook")
        >>> wanted = wanted_columns(recipe.data[0], tiny_folder() / "observations.parquet", recipe)
        >>> columns = read_columns(tiny_folder() / "observations.parquet", wanted)
        >>> list(long_rows(recipe.data[0], columns, recipe))
        ['star', 'survey', 'label', 'value', 'error', 'file', 'row']
    """
    named = {role: entry.columns.get(role, role) for role in LONG} | {"star": _star_column(entry)}
    get = {role: columns.values.get(name) for role, name in named.items()}
    get["error"], error_unit = long_error(entry, columns)
    for role, known in (("survey", recipe.surveys), ("label", recipe.labels)):
        names = np.asarray(get[role]).astype(str)
        unknown = [n for n in np.unique(names) if n not in known]
        if unknown:
            n_row = int(np.isin(names, unknown).sum())
            raise HbcalError(
                f"{columns.path.name} has {n_row} row(s) of unknown {role} {some(unknown)}"
                f"{closest(unknown[0], known)}: declare it in the recipe, or filter it with keep."
            )
    frame = pd.DataFrame({role: get[role] for role in LONG})
    unit = columns.units.get(named["value"], "")
    for label in frame["label"].unique():
        at = (frame["label"] == label).to_numpy()
        for role, have in (("value", unit), ("error", error_unit or unit)):
            what = f"{role} column of {columns.path.name} for label {label!r}"
            frame.loc[at, role] = to_unit(frame.loc[at, role].to_numpy(), have, recipe.unit(label), what)
    return frame.assign(file=columns.path.name, row=columns.row)


def long_error(entry: DataSpec, columns: Columns) -> tuple[np.ndarray, str]:
    """Error of each row of a long table: its error column, or the mean of its lower and upper one.

    Args:
        entry: its data entry.
        columns: what was read.

    Returns:
        Errors (n_row,), NaN where there is none, in the unit of the second value ("" where the file states none).

    Errors:
        HbcalError for negative, zero or infinite errors, or one of the two asymmetric errors without the other.

    Example:
        >>> from hbcal import load_recipe
        >>> recipe = load_recipe("textbook")
        >>> wanted = wanted_columns(recipe.data[0], tiny_folder() / "observations.parquet", recipe)
        >>> columns = read_columns(tiny_folder() / "observations.parquet", wanted)
        >>> error, unit = long_error(recipe.data[0], columns)
        >>> error.shape == (columns.n_row,), unit  # the file states no unit
        (True, '')
    """
    named = {role: entry.columns.get(role, role) for role in ("error", "error_lower", "error_upper")}
    there = {role: columns.values[name] for role, name in named.items() if name in columns.values}
    for role, values in there.items():
        check_errors(values, named[role], columns.path.name, columns.row)
    used = ["error"] if "error" in there else [role for role in ("error_lower", "error_upper") if role in there]
    if used in (["error_lower"], ["error_upper"]):
        raise HbcalError(
            f"{columns.path.name} has {named[used[0]]!r} without its counterpart: give both error_lower and "
            "error_upper, or one column error."
        )
    units = {columns.units.get(named[role], "") for role in used}
    if len(units) > 1:
        raise HbcalError(f"The error columns of {columns.path.name} are in {some(sorted(units))}: give both one unit.")
    error = np.mean([there[role] for role in used], axis=0) if used else np.full(columns.n_row, np.nan)
    return error, next(iter(units), "")


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
        >>> from hbcal import load_recipe
        >>> recipe, one = load_recipe("kepler_giants"), np.ones(1)
        >>> values = {"KIC_ID": np.array(["1"]), "LOGG_FIT": 2.5 * one}
        >>> values |= {"LOGG_SEIS": 2.4 * one, "SIG_LOGG_SEIS": 0.01 * one}
        >>> frames = wide_rows(recipe.data[0], Columns(Path("giants.csv"), values, {}, np.array([1])), recipe)
        >>> [(str(f["survey"][0]), float(f["value"][0]), float(f["error"][0])) for f in frames]
        [('apogee', 2.5, nan), ('seismology', 2.4, 0.01)]
    """
    frames, read = [], {}
    for m in entry.measurements:
        if m.transform == "log10":
            refuse_no_log10(columns.values[m.value], f"column {m.value!r} of {columns.path.name}")
        read[m.survey, m.label] = read_measurement(columns, m, recipe.unit(m.label))
    told = read_correlations(columns, entry.correlations, {pair: error for pair, (_, error) in read.items()})
    for m in entry.measurements:
        value, error = read[m.survey, m.label]
        frame = pd.DataFrame({"star": columns.values[_star_column(entry)], "survey": m.survey, "label": m.label})
        frame = frame.assign(value=value, error=error, file=columns.path.name, row=columns.row)
        frames.append(frame.assign(**told.get((m.survey, m.label), {})))
    return frames


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
        >>> from hbcal import load_recipe
        >>> rows = pd.DataFrame({"star": ["a", "b"], "survey": "s1", "label": "fe_h", "value": [0.1, np.nan]})
        >>> rows, left_out = rows.assign(error=0.05, file="observations.csv", row=[1, 2]), Counter()
        >>> len(check_rows(rows, load_recipe("textbook"), left_out)), left_out["no value"]
        (1, 1)
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
        known = table.assign(at=at)[(at >= 0) & table["x"].notna()]  # a file without a value does not erase another's
        mean = known.groupby("at")["x"].mean()
        if recipe.covariates[names[c]].levels:
            _refuse_mixed(known, names[c])
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


def _refuse_mixed(known: pd.DataFrame, name: str) -> None:
    """A star with several rows has one category in all of them: levels have no mean."""
    mixed = known.groupby("at").agg(star=("star", "first"), n=("x", "nunique"))
    mixed = mixed[mixed["n"] > 1]
    if len(mixed):
        raise HbcalError(
            f"Category {name!r} differs between the rows of {len(mixed)} star(s), {some(mixed['star'])}: give each "
            "star one."
        )
