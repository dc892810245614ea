"""Correlations between the errors of the labels of one visit: read, checked, and laid beside the measurements."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from hbcal._errors import HbcalError
from hbcal.catalogue.catalogue import Catalogue
from hbcal.catalogue.read import Columns
from hbcal.recipe_spec import CorrelationSpec

PREFIX = "correlation with "
LEAST = 1e-9  # smallest eigenvalue of a correlation matrix that still counts as positive


def read_correlations(
    columns: Columns, specs: tuple[CorrelationSpec, ...], errors: Mapping[tuple[str, str], np.ndarray]
) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """The correlations that a wide table gives.

    Args:
        columns: what was read.
        specs: which columns say what.
        errors: (survey, label) -> reported errors, (n_row,), label unit; those of a covariance are divided out.

    Returns:
        (survey, label) -> column name -> correlation with another label, (n_row,), NaN where it is not given.

    Errors:
        HbcalError for a correlation outside (-1, 1), a covariance without the two errors.

    Example:
        >>> from pathlib import Path
        >>> table = Columns(Path("t.csv"), {"cov": np.array([0.01])}, {}, np.array([1]))
        >>> spec = CorrelationSpec("a", ("teff", "fe_h"), "cov", "covariance")
        >>> told = read_correlations(table, (spec,), {("a", "teff"): np.array([2.0]), ("a", "fe_h"): np.array([0.1])})
        >>> told["a", "fe_h"]
        {'correlation with teff': array([0.05])}
    """
    out: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for spec in specs:
        first, second = spec.labels
        told = columns.values[spec.column]
        if spec.kind == "covariance":
            told = told / (errors[spec.survey, first] * errors[spec.survey, second])
        wrong = ~np.isnan(columns.values[spec.column]) & ~(np.abs(told) < 1.0)
        if wrong.any():
            why = (
                "or errors are missing: correct or empty them" if spec.kind == "covariance" else "correct or empty them"
            )
            raise HbcalError(
                f"{columns.path.name} has {int(wrong.sum())} {spec.kind}(s) of {first} and {second} of survey "
                f"{spec.survey!r} in column {spec.column!r} that make a correlation outside (-1, 1), first in row "
                f"{columns.row[wrong.argmax()]}: {why}."
            )
        out.setdefault((spec.survey, first), {})[PREFIX + second] = told
        out.setdefault((spec.survey, second), {})[PREFIX + first] = told
    return out


def with_correlations(cat: Catalogue, rows: pd.DataFrame, long: Collection[str]) -> Catalogue:
    """Say of every measurement which visit it is of, and how its error goes with that of the visit's other labels.

    Measurements of one row of a wide table are of one visit; those of a long table are numbered in order.

    Args:
        cat: the catalogue of the rows.
        rows: as `hbcal.catalogue.observe.check_rows` gives them, with columns file and row.
        long: names of the files that are long.

    Returns:
        `Catalogue` with `visit` and, where any is given, `correlation`.

    Errors:
        HbcalError for correlations that no errors can have.

    Example:
        >>> cat = tiny_sky().catalogue
        >>> frame = pd.DataFrame({"file": "m.csv", "row": np.arange(len(cat.value))})
        >>> set(with_correlations(cat, frame, []).visit.tolist())  # no star twice in a survey
        {0}
    """
    frame = pd.DataFrame({"star": cat.star, "survey": cat.survey, "label": cat.label})
    nth = frame.groupby(["star", "survey", "label"]).cumcount().to_numpy()
    number = np.where(rows["file"].isin(list(long)), nth, rows["row"].to_numpy())
    frame["source"] = pd.factorize(rows["file"].astype(str) + ":" + pd.Series(number, rows.index).astype(str))[0]
    visit = frame.groupby(["star", "survey"])["source"].rank(method="dense").to_numpy().astype(int) - 1
    names = [PREFIX + label for label in cat.labels]
    if not any(name in rows for name in names):
        return replace(cat, visit=visit)
    correlation = np.stack(
        [rows[name].to_numpy(float) if name in rows else np.full(len(rows), np.nan) for name in names], axis=1
    )
    _refuse_impossible(cat, visit, correlation)
    return replace(cat, visit=visit, correlation=correlation)


def _refuse_impossible(cat: Catalogue, visit: np.ndarray, correlation: np.ndarray) -> None:
    """Lay the correlations out as a matrix per visit, of the labels that it has."""
    _, first, number = np.unique(
        np.stack([cat.star, cat.survey, visit]), axis=1, return_index=True, return_inverse=True
    )
    matrix = np.full((len(first), len(cat.labels), len(cat.labels)), np.nan)
    matrix[number, cat.label] = correlation
    seen = np.zeros(matrix.shape[:2], bool)
    seen[number, cat.label] = True
    matrix[~seen[:, :, None] | ~seen[:, None]] = np.nan
    refuse_impossible(matrix, cat.stars[cat.star[first]])


def refuse_impossible(matrix: np.ndarray, star: np.ndarray) -> None:
    """Correlations that each lie within (-1, 1) need not go together.

    Args:
        matrix: correlations between labels, (n_row, n_label, n_label), NaN where not given: then 0; the diagonal is 1.
        star: ids of the rows, for the message.

    Returns:
        Nothing.

    Errors:
        HbcalError for rows whose correlations form no covariance matrix.

    Example:
        >>> matrix = np.array([[[1.0, 0.9, -0.9], [0.9, 1.0, 0.9], [-0.9, 0.9, 1.0]]])
        >>> refuse_impossible(matrix, np.array(["x"]))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        hbcal._errors.HbcalError: The correlations of 1 row(s) go together in no covariance matrix, first star 'x': ...
    """
    whole = np.where(np.eye(matrix.shape[1], dtype=bool), 1.0, np.nan_to_num(matrix))
    wrong = np.linalg.eigvalsh(whole)[:, 0] < LEAST
    if wrong.any():
        raise HbcalError(
            f"The correlations of {int(wrong.sum())} row(s) go together in no covariance matrix, first star "
            f"{str(star[wrong.argmax()])!r}: correct or empty them."
        )
