"""Tables that a finished run is applied to, and queries that it is asked: read, checked, in the order given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from hbcal._errors import HbcalError, closest, some
from hbcal.catalogue.catalogue import Catalogue
from hbcal.catalogue.correlations import PREFIX, read_correlations, refuse_impossible
from hbcal.catalogue.observe import long_error, wanted_columns
from hbcal.catalogue.read import Columns, Kind, column_names, read_columns, unique_columns
from hbcal.catalogue.values import check_errors, read_covariate, read_measurement, to_unit
from hbcal.recipe import ColumnSpec, DataSpec, MeasurementSpec, Recipe
from hbcal.recipe_spec import CorrelationSpec


@dataclass(frozen=True)
class Target:
    """Rows of one survey to be put on the common scale.

    Attributes:
        survey: whose they are.
        star: ids, (n_row,) str.
        value, error: label -> (n_row,), label unit, NaN where there is none.
        impossible: label -> rows whose value was outside the label's range.
        x: covariates as observed, (n_row, n_covariate).
        reason: why a row has no answer, (n_row,) str, "" where it may have one.
        one_label: whether each row holds a single label (a long table).
        correlation: pair of labels -> correlation of their errors, (n_row,), NaN where it is not given.
    """

    survey: str
    star: np.ndarray
    value: Mapping[str, np.ndarray]
    error: Mapping[str, np.ndarray]
    impossible: Mapping[str, np.ndarray]
    x: np.ndarray
    reason: np.ndarray
    one_label: bool
    correlation: Mapping[frozenset[str], np.ndarray] = field(default_factory=dict)


def read_target(recipe: Recipe, path: Path, survey: str, fitted: tuple[str, ...], known: Catalogue) -> Target:
    """Read a table for `apply`: with the recipe's column names, with hbcal's own, or long.

    Own names are ``star``, ``<label>``, ``<label>_err``, ``<label>_<label>_corr`` and the covariates' names. Covariates
    that the table lacks are taken from the run's own stars, by id.

    Args:
        recipe: of the run.
        path: CSV, ECSV, Parquet or FITS, or an ``.nc`` of the label schema.
        survey: whose rows they are.
        fitted: labels the run calibrated for that survey.
        known: the run's catalogue.

    Returns:
        `Target`, rows in the file's order.

    Errors:
        HbcalError for an unknown survey, missing columns, bad errors, a wrong unit.

    Example:
        >>> run = tiny_run()
        >>> path = tiny_folder() / "observations.parquet"
        >>> target = read_target(run.recipe, path, "s1", ("fe_h",), run.catalogue)
        >>> target.x.shape == (len(target.star), 2), sorted(set(target.reason))
        (True, ['', 'not a row of s1'])
    """
    if survey not in recipe.surveys:
        raise HbcalError(f"The run knows no survey {survey!r}{closest(survey, recipe.surveys)}.")
    names = column_names(path)
    long = _long_entry(recipe, names)
    wide, wanted = _plan(recipe, names, survey, fitted) if long is None else ({}, wanted_columns(long, path, recipe))
    told = _correlations(recipe, names, survey, list(wide))
    wanted |= {spec.column: "number" for spec in told}
    covariates = {c: _covariate_column(recipe, names, survey, c) for c in recipe.covariates}
    for name, where in covariates.items():
        if where is not None:
            wanted[where.column] = "text" if recipe.covariates[name].levels else "number"
    entries = recipe.data if long is None else (long, *recipe.data)
    candidates = unique_columns([*(e.columns.get("star", e.star) for e in entries), "star"])
    star_column = next((n for n in candidates if n in names), "")
    if not star_column:
        raise HbcalError(f"{path.name} has no column of star ids: name it 'star', or as the recipe does.")
    wanted[star_column] = "text"
    missing = tuple(m for e in recipe.data for m in e.missing)
    columns = read_columns(path, {n: wanted[n] for n in unique_columns(wanted)}, missing)
    star = columns.values[star_column]
    if long is not None:
        value, error = _long(recipe, columns, survey, fitted, long)
    else:
        read = {label: read_measurement(columns, m, recipe.unit(label)) for label, m in wide.items()}
        value, error = ({label: pair[k] for label, pair in read.items()} for k in (0, 1))
    reported = {(survey, label): e for label, e in error.items()}
    correlation = {
        frozenset((label, other.removeprefix(PREFIX))): values
        for (_, label), others in read_correlations(columns, told, reported).items()
        for other, values in others.items()
    }
    if correlation:
        matrix = np.full((columns.n_row, len(value), len(value)), np.nan)
        for pair, r in correlation.items():
            i, j = (list(value).index(label) for label in pair)
            matrix[:, i, j] = matrix[:, j, i] = r
        refuse_impossible(matrix, star)
    impossible = {}
    for label, y in value.items():
        n_inf = int(np.isinf(y).sum())
        if n_inf:
            raise HbcalError(f"{path.name} has {n_inf} infinite {label} value(s): empty them.")
        low, high = recipe.labels[label].range
        impossible[label] = (y < low) | (y > high)
        if impossible[label].sum() > 0.5 * np.isfinite(y).sum():
            raise HbcalError(
                f"{path.name} has {int(impossible[label].sum())} of {int(np.isfinite(y).sum())} {label} values outside "
                f"[{low:g}, {high:g}] {recipe.unit(label)}: the unit or the column is probably wrong."
            )
        value[label] = np.where(impossible[label], np.nan, y)
    x = np.full((columns.n_row, len(recipe.covariates)), np.nan)
    at = pd.Index(known.stars.astype(str)).get_indexer(star.astype(str))
    s = recipe_index(recipe, survey)
    for c, (name, spec) in enumerate(recipe.covariates.items()):
        column = covariates[name]
        if column is not None:
            x[:, c] = read_covariate(columns, column, spec)
        elif spec.own in value:
            x[:, c] = value[spec.own]
        stored = np.where(at >= 0, known.x[at, s, c], np.nan)
        x[:, c] = np.where(np.isnan(x[:, c]), stored, x[:, c])
    reason = np.full(columns.n_row, "", dtype=object)
    if long:
        rows = {role: columns.values[long.columns.get(role, role)] for role in ("survey", "label")}
        reason[rows["survey"] != survey] = f"not a row of {survey}"
        unknown = ~np.isin(rows["label"].astype(str), fitted) & (reason == "")
        reason[unknown] = f"label not calibrated for {survey}"
    reason[star == ""] = "no star id"
    return Target(survey, star, value, error, impossible, x, reason, long is not None, correlation)


def recipe_index(recipe: Recipe, survey: str) -> int:
    """Position of a survey in its recipe.

    Args:
        recipe: any.
        survey: one it declares.

    Returns:
        Its index; dimensionless.

    Errors:
        ValueError for an unknown survey.

    Example:
        >>> from hbcal import load_recipe
        >>> recipe_index(load_recipe("textbook"), "s1")
        1
    """
    return list(recipe.surveys).index(survey)


def _long_entry(recipe: Recipe, names: list[str]) -> DataSpec | None:
    """How the table is long: with the column names of one of the recipe's long files, with hbcal's own, or not."""
    for entry in (*(e for e in recipe.data if e.layout == "long"), DataSpec("", "long")):
        roles = [entry.columns.get(role, role) for role in ("survey", "label", "value")]
        if {*roles, entry.columns.get("star", entry.star)} <= set(names):
            return replace(entry, covariates={}, keep={}, within={})
    return None


def _plan(
    recipe: Recipe, names: list[str], survey: str, fitted: tuple[str, ...]
) -> tuple[dict[str, MeasurementSpec], dict[str, Kind]]:
    """label -> where it is measured, and the columns to read."""
    wanted: dict[str, Kind] = {}
    wide: dict[str, MeasurementSpec] = {}
    tried = []
    for label in fitted:
        mapped = [m for e in recipe.data for m in e.measurements if (m.survey, m.label) == (survey, label)]
        tried += [m.value for m in mapped] + [label]
        found = next((m for m in mapped if m.value in names), None)
        if found is not None:
            lacking = [n for n in found.error if n not in names]
            if lacking:
                raise HbcalError(f"The table has {found.value!r} but lacks its error column {some(lacking)}: add it.")
            wide[label] = found
        elif label in names:
            wide[label] = MeasurementSpec(survey, label, label, (f"{label}_err",) if f"{label}_err" in names else ())
    if not wide:
        raise HbcalError(
            f"The table has no column with a label that the run calibrated for {survey!r}: expected one of "
            f"{some(tried, 8)}."
        )
    for m in wide.values():
        wanted |= dict.fromkeys((m.value, *m.error), "number")
    return wide, wanted


def _correlations(recipe: Recipe, names: list[str], survey: str, labels: list[str]) -> tuple[CorrelationSpec, ...]:
    """The columns that say how the errors of two labels go together: those of the recipe, or hbcal's own."""
    mapped = {frozenset(c.labels): c for e in recipe.data for c in e.correlations if c.survey == survey}
    found = []
    for first, second in combinations(labels, 2):
        spec, own = mapped.get(frozenset((first, second))), f"{first}_{second}_corr"
        if spec is not None and spec.column in names:
            found.append(spec)
        elif own in names:
            found.append(CorrelationSpec(survey, (first, second), own))
    return tuple(found)


def _covariate_column(recipe: Recipe, names: list[str], survey: str, covariate: str) -> ColumnSpec | None:
    for entry in recipe.data:
        spec = entry.covariates.get(covariate)
        if spec is not None and spec.survey in ("", survey) and spec.column in names:
            return spec
    return ColumnSpec(covariate) if covariate in names and not recipe.covariates[covariate].own else None


def _long(recipe: Recipe, columns: Columns, survey: str, fitted: tuple[str, ...], entry: DataSpec):
    value, error = {}, {}
    name = {role: entry.columns.get(role, role) for role in ("survey", "label", "value")}
    given, error_unit = long_error(entry, columns)
    unit, file = columns.units.get(name["value"], ""), columns.path.name
    for label in fitted:
        here = (columns.values[name["label"]] == label) & (columns.values[name["survey"]] == survey)
        y = to_unit(columns.values[name["value"]], unit, recipe.unit(label), f"value column of {file}")
        e = to_unit(given, error_unit or unit, recipe.unit(label), f"error column of {file}")
        value[label], error[label] = np.where(here, y, np.nan), np.where(here, e, np.nan)
    return value, error


@dataclass(frozen=True)
class Query:
    """What `predict` is asked: star, survey, label per row, and the error of the measurement to be (NaN: typical).

    With values, in the label's unit, it says how probable each was.
    """

    star: np.ndarray
    survey: np.ndarray
    label: np.ndarray
    error: np.ndarray
    value: np.ndarray | None = None


def read_query(path: Path, recipe: Recipe) -> Query:
    """Read a table of questions.

    Args:
        path: columns star, survey, label and perhaps error and value, in the unit they state or the label's.
        recipe: of the run.

    Returns:
        `Query`, rows in the file's order.

    Errors:
        HbcalError for missing columns, bad errors, or a unit that does not convert.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "q.csv").write_text("star,survey,label\\nstar01,s2,fe_h\\n")
        ...     read_query(Path(folder) / "q.csv", tiny_run().recipe).error.tolist()  # none given: the typical one
        [nan]
    """
    wanted: dict[str, Kind] = {"star": "text", "survey": "text", "label": "text"}
    if path.is_file():
        wanted |= {name: "number" for name in ("error", "value") if name in column_names(path)}
    columns = read_columns(path, wanted)
    numbers = {name: columns.values.get(name, np.full(columns.n_row, np.nan)) for name in ("error", "value")}
    check_errors(numbers["error"], "error", path.name)
    for label in {*columns.values["label"]} & recipe.labels.keys():
        at = columns.values["label"] == label
        for name, x in numbers.items():
            unit = columns.units.get(name, "")
            x[at] = to_unit(x[at], unit, recipe.unit(label), f"{name} column of {path.name}")
    value = numbers["value"] if "value" in columns.values else None
    star, survey, label = (columns.values[name] for name in ("star", "survey", "label"))
    return Query(star, survey, label, numbers["error"], value)
