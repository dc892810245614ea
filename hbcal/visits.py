"""Measurements that belong together: the labels that one visit of a survey reports of a star."""

from __future__ import annotations

import numpy as np

from hbcal._errors import HbcalError, some
from hbcal.catalogue.catalogue import Catalogue
from hbcal.recipe import Recipe


def visits_of(cat: Catalogue) -> np.ndarray:
    """Which visit of its survey each measurement of a star belongs to, counted from 0.

    Args:
        cat: any; where it does not say, the first measurement of every label is of visit 0, and so on.

    Returns:
        (n_measurement,) int.

    Errors:
        None.

    Example:
        >>> set(visits_of(tiny_sky().catalogue).tolist())  # no star twice in one survey
        {0}
    """
    if cat.visit is not None:
        return cat.visit
    order = np.lexsort((cat.label, cat.survey, cat.star))
    visit = np.zeros(len(cat.value), int)
    visit[order] = numbered(cat.star[order], cat.survey[order], cat.label[order])
    return visit


def numbered(*keys: np.ndarray) -> np.ndarray:
    """Number the rows that agree in every key, in order.

    Args:
        *keys: sorted together, (n_row,) each.

    Returns:
        (n_row,) int, 0 for the first of each run.

    Errors:
        None.

    Example:
        >>> numbered(np.array([4, 4, 4, 7]), np.array([0, 0, 1, 1])).tolist()
        [0, 1, 0, 0]
    """
    n = len(keys[0])
    new = np.ones(n, bool)
    new[1:] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    return np.arange(n) - np.maximum.accumulate(np.where(new, np.arange(n), 0))


def refuse_apart(recipe: Recipe, cat: Catalogue, rows: np.ndarray, fitted: tuple[str, ...]) -> None:
    """A correlation can be fitted between labels that are fitted, and that some visit of the survey has both of.

    Args:
        recipe, cat: of the fit.
        rows: those that enter the fit, (n_row,).
        fitted: labels.

    Returns:
        Nothing.

    Errors:
        HbcalError naming the survey and the labels.

    Example:
        >>> refuse_apart(tiny_run().recipe, tiny_sky().catalogue, np.arange(9), ("fe_h",))  # asks for no correlation
    """
    asked = {survey: spec for survey, spec in recipe.surveys.items() if spec.correlated}
    visit = visits_of(cat)[rows] if asked else rows
    for survey, spec in asked.items():
        here = cat.survey[rows] == cat.surveys.index(survey)
        if not here.any():
            continue
        lost = [label for label in spec.correlated if label not in fitted]
        if lost:
            raise HbcalError(
                f"The recipe fits the correlation of {some(lost)} of survey {survey!r} with others, but nothing else "
                "measures that label: take it out of correlated."
            )
        _, number = np.unique(np.stack([cat.star[rows], visit])[:, here], axis=1, return_inverse=True)
        seen = np.zeros((number.max(initial=-1) + 1, len(cat.labels)), bool)
        seen[number, cat.label[rows][here]] = True
        for i, first in enumerate(spec.correlated):
            for second in spec.correlated[:i]:
                if not (seen[:, cat.labels.index(first)] & seen[:, cat.labels.index(second)]).any():
                    raise HbcalError(
                        f"The recipe fits the correlation of {some([second, first])} of survey {survey!r}, but no row "
                        "of a star that others saw has both: take one out of correlated."
                    )


def given_correlations(cat: Catalogue, at: list[int], table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Correlations that came with some visits; a pair that a visit with some does not give is not correlated.

    Args:
        cat: of the measurements.
        at: labels on the last axis of the table.
        table: measurements of the visits, (..., n_label), -1 for none.

    Returns:
        Matrices (..., n_label, n_label), 1 on the diagonal; which visits have some, (...,) bool.

    Errors:
        None.

    Example:
        >>> corr, given = given_correlations(tiny_sky().catalogue, [0], np.array([[0], [-1]]))
        >>> corr.ravel().tolist(), given.tolist()
        ([1.0, 1.0], [False, False])
    """
    corr = np.broadcast_to(np.eye(len(at)), (*table.shape, len(at))).copy()
    if cat.correlation is None:
        return corr, np.zeros(table.shape[:-1], bool)
    there = (table >= 0)[..., None] & (table >= 0)[..., None, :] & ~np.eye(len(at), dtype=bool)
    told = cat.correlation[table][..., at]
    known = np.isfinite(told) & there
    return np.where(known, told, corr), known.any((-1, -2))


def visit_table(cat: Catalogue, survey: int) -> np.ndarray:
    """The measurements of a survey, a visit per row.

    Args:
        cat: any.
        survey: its number.

    Returns:
        Number of each measurement, (n_visit, n_label), -1 for none.

    Errors:
        None.

    Example:
        >>> cat = tiny_sky().catalogue
        >>> table = visit_table(cat, 1)
        >>> bool((cat.survey[table] == 1).all()), table.shape[1]
        (True, 1)
    """
    rows = np.flatnonzero(cat.survey == survey)
    _, number = np.unique(np.stack([cat.star[rows], visits_of(cat)[rows]]), axis=1, return_inverse=True)
    table = np.full((number.max(initial=-1) + 1, len(cat.labels)), -1)
    table[number, cat.label[rows]] = rows
    return table
