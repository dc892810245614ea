"""Noise of simulated measurements, correlated between the labels of a visit where the recipe has that."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import xarray as xr

from hbcal.catalogue.catalogue import Catalogue
from hbcal.draws import correlation_draws
from hbcal.recipe import DataSpec, Recipe
from hbcal.visits import given_correlations, visit_table


def drawn_noise(
    cat: Catalogue, truth: xr.Dataset, quoted: np.ndarray, wide: np.ndarray, white: np.ndarray
) -> np.ndarray:
    """Noise with covariance a_l e_l R_lm a_m e_m + tau_l R'_lm tau_m within a visit, see `crosscal_correlated`.

    Args:
        cat: who measures what, and the correlations that come with it.
        truth: one draw of the calibration.
        quoted, wide: a e and tau of each measurement, label units, (n_measurement,).
        white: standard normal numbers, (n_measurement,).

    Returns:
        (n_measurement,), label units.

    Errors:
        LinAlgError where a visit's covariance is not positive definite.

    Example:
        >>> sky, two = tiny_correlated(), np.full(len(tiny_correlated().catalogue.value), 2.0)
        >>> drawn_noise(sky.catalogue, tiny_run().posterior.isel(draw=[0]), two, 0 * two, two)[:2]  # none fitted there
        array([4., 4.])
    """
    noise = np.hypot(quoted, wide) * white
    if "correlation" not in truth and cat.correlation is None:
        return noise
    every = list(range(len(cat.labels)))
    for s, survey in enumerate(cat.surveys):
        table = visit_table(cat, s)
        there = table >= 0
        fitted = correlation_draws(truth, survey)[0]
        corr, given = given_correlations(cat, every, table)
        q, w = (np.where(there, part[table], 0.0) for part in (quoted, wide))
        of_errors = np.where(given[:, None, None], corr, fitted)
        cov = q[:, :, None] * of_errors * q[:, None] + w[:, :, None] * fitted * w[:, None]
        silent = (np.einsum("ill->il", cov) == 0)[:, :, None] * np.eye(len(every))
        root = np.linalg.cholesky(cov + silent)
        drawn = np.einsum("ilm,im->il", root - silent, np.where(there, white[table], 0.0))
        noise[table[there]] = drawn[there]
    return noise


def given_pattern(recipe: Recipe, cat: Catalogue) -> Catalogue:
    """Give a simulated sky the correlations that its recipe's files hold.

    Args:
        recipe: with `simulate.correlation`, "survey.label.label" -> correlation.
        cat: a sky, a visit per star and survey at most.

    Returns:
        The sky; the same where the recipe reads no correlations.

    Errors:
        None.

    Example:
        >>> given_pattern(tiny_run().recipe, tiny_sky().catalogue) is tiny_sky().catalogue
        True
    """
    pairs = {(c.survey, *c.labels) for entry in recipe.data for c in entry.correlations}
    if not pairs:
        return cat
    given = {}
    for key, value in recipe.simulate.correlation.items():
        survey, first, second = key.split(".")
        given[survey, first, second] = given[survey, second, first] = value
    table = np.full((len(cat.surveys), len(cat.labels), len(cat.labels)), np.nan)
    for survey, first, second in pairs:
        at = cat.labels.index(first), cat.labels.index(second)
        value = given.get((survey, first, second), 0.0)
        table[(cat.surveys.index(survey), *at)] = table[(cat.surveys.index(survey), *at[::-1])] = value
    return replace(cat, visit=np.zeros(len(cat.value), int), correlation=table[cat.survey, cat.label])


def correlation_columns(cat: Catalogue, entry: DataSpec) -> dict[str, np.ndarray]:
    """The columns of a wide table that say how errors go together.

    Args:
        cat: a simulated sky.
        entry: of its recipe.

    Returns:
        Column name -> (n_star,), NaN where a star has not both labels.

    Errors:
        None.

    Example:
        >>> correlation_columns(tiny_sky().catalogue, tiny_run().recipe.data[0])  # a long table has none
        {}
    """
    out = {}
    for spec in entry.correlations:
        table, at = visit_table(cat, cat.surveys.index(spec.survey)), [cat.labels.index(l) for l in spec.labels]
        corr, _ = given_correlations(cat, at, table[:, at])
        both = (table[:, at] >= 0).all(1)
        first, second = table[both][:, at].T
        values = corr[both, 0, 1]
        if spec.kind == "covariance":
            values = values * cat.error[first] * cat.error[second]
        out[spec.column] = np.full(cat.n_star, np.nan)
        out[spec.column][cat.star[first]] = values
    return out
