"""Design columns of a (survey, label): the same for fitting, applying and predicting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hbcal.numerics import bases
from hbcal.recipe import FloorSpec, Recipe, TrendSpec

OFFSET = "offset"


@dataclass(frozen=True)
class Terms:
    """Columns of one (survey, label), the zero point first.

    Attributes:
        values: (n_row, n_term), dimensionless, NaN where a covariate is missing.
        names: of the terms; "offset" is the first.
        weights: prior sd relative to the scale of the term's group, (n_term,).
        groups: "offset", or "trend0", "trend1" ... as the recipe lists them.
        levels: (category, level) a term is confined to, or None.
        covariates: what each term depends on.
    """

    values: np.ndarray
    names: list[str]
    weights: np.ndarray
    groups: list[str]
    levels: list[tuple[str, str] | None]
    covariates: list[tuple[str, ...]]


def standardised(recipe: Recipe, x: np.ndarray, raised: str = "") -> dict[str, np.ndarray]:
    """Covariates in the recipe's standard units, u = (x - centre) / scale; categories stay level numbers.

    A true label is not observed: its u is 0, the trend's reference.

    Args:
        recipe: declares centre and scale.
        x: as observed, (n_row, n_covariate), in the recipe's units.
        raised: a true label whose u is 1 instead.

    Returns:
        Name -> (n_row,), dimensionless.

    Errors:
        None.

    Example:
        >>> from hbcal import load_recipe
        >>> standardised(load_recipe("textbook"), np.array([[0.5, 1.0]]))["x1"].tolist()
        [0.5]
    """
    return {
        name: np.full(len(x), float(name == raised)) if spec.true
        else x[:, c] if spec.levels else (x[:, c] - spec.centre) / spec.scale
        for c, (name, spec) in enumerate(recipe.covariates.items())
    }  # fmt: skip


def trend_terms(recipe: Recipe, survey: str, label: str, x: np.ndarray, raised: str = "") -> Terms:
    """The columns whose coefficients are the zero point and the trends of a survey's label.

    Args:
        recipe: with its trends.
        survey, label: which.
        x: covariates of that survey's stars, (n_row, n_covariate), recipe's units.
        raised: as for `standardised`.

    Returns:
        `Terms` with n_row rows.

    Errors:
        None: names were checked with the recipe.

    Example:
        >>> from hbcal import load_recipe
        >>> trend_terms(load_recipe("textbook"), "s1", "fe_h", np.array([[0.5, 1.0]])).names
        ['offset', 'x1', 'x2']
    """
    out = Terms(np.ones((len(x), 1)), [OFFSET], np.ones(1), [OFFSET], [None], [()])
    for i, spec in enumerate(recipe.trend):
        if _concerns(spec, survey, label):
            out = _join(out, _columns(recipe, spec, x, f"trend{i}", raised))
    return out


def true_slopes(recipe: Recipe, survey: str, label: str, x: np.ndarray) -> np.ndarray:
    """How the columns of `trend_terms` grow with the star's true labels: phi(z) = phi + slope (z - reference).

    Args:
        recipe, survey, label, x: as for `trend_terms`.

    Returns:
        (n_row, n_term, n_label), one over label units; exact, since such columns are linear.

    Errors:
        None.

    Example:
        >>> from hbcal import load_recipe
        >>> true_slopes(load_recipe("textbook"), "s1", "fe_h", np.zeros((4, 2))).any()  # nothing there is a true label
        np.False_
    """
    at_reference = trend_terms(recipe, survey, label, x).values
    out = np.zeros((*at_reference.shape, len(recipe.labels)))
    for name, spec in recipe.covariates.items():
        if spec.true:
            higher = trend_terms(recipe, survey, label, x, name).values
            out[:, :, list(recipe.labels).index(spec.true)] = (higher - at_reference) / spec.scale
    return out


def true_reference(recipe: Recipe) -> np.ndarray:
    """The true labels at which trends in them vanish: the centres of their covariates.

    Args:
        recipe: any.

    Returns:
        (n_label,), label units; 0 for a label that no trend depends on.

    Errors:
        None.

    Example:
        >>> from hbcal import load_recipe
        >>> true_reference(load_recipe("textbook")).tolist()
        [0.0]
    """
    centre = {spec.true: spec.centre for spec in recipe.covariates.values() if spec.true}
    return np.array([centre.get(label, 0.0) for label in recipe.labels])


def floor_terms(recipe: Recipe, survey: str, label: str, x: np.ndarray) -> Terms:
    """The columns of the log floor.

    Args:
        recipe: with its floors.
        survey, label: which.
        x: covariates, (n_row, n_covariate), recipe's units.

    Returns:
        `Terms`, without a constant column; none where the floor is one number.

    Errors:
        None.

    Example:
        >>> from hbcal import load_recipe
        >>> floor_terms(load_recipe("textbook"), "s1", "fe_h", np.zeros((4, 2))).values.shape
        (4, 0)
    """
    out = Terms(np.ones((len(x), 0)), [], np.ones(0), [], [], [])
    for i, spec in enumerate(recipe.floor):
        if _concerns(spec, survey, label):
            out = _join(out, _columns(recipe, spec, x, f"floor{i}"))
    return out


def _concerns(spec: TrendSpec | FloorSpec, survey: str, label: str) -> bool:
    return (not spec.surveys or survey in spec.surveys) and (not spec.labels or label in spec.labels)


def _columns(recipe: Recipe, spec: TrendSpec | FloorSpec, x: np.ndarray, group: str, raised: str = "") -> Terms:
    """Columns of one spec; with a category, each level has its own, and all but the first a constant of their own.

    So the zero point (and the floor) is that of the first level at the reference of the covariates.
    """
    u = standardised(recipe, x, raised)
    if spec.covariates:
        base = _basis(spec.basis, np.stack([u[c] for c in spec.covariates], axis=1), spec.covariates, spec.options)
    else:
        base = bases.Columns(np.ones((len(x), 0)), [], np.ones(0))
    if not spec.per:
        n = len(base.names)
        return Terms(base.values, base.names, base.weights, [group] * n, [None] * n, [spec.covariates] * n)
    level_of = u[spec.per]
    parts: list[Terms] = []
    for k, level in enumerate(recipe.covariates[spec.per].all_levels):
        here = np.where(np.isnan(level_of), np.nan, (level_of == k).astype(float))
        own = [] if k == 0 else [f"{spec.per}={level}"]
        names = own + [f"{name}:{spec.per}={level}" for name in base.names]
        values = np.concatenate([np.ones((len(x), len(own))), base.values], axis=1)
        values = np.where(here[:, None] == 0, 0.0, values * here[:, None])  # 0 * NaN of another level's star is 0
        n = len(names)
        weights = np.concatenate([np.ones(len(own)), base.weights])
        uses = [(spec.per,)] * len(own) + [(*spec.covariates, spec.per)] * len(base.names)
        parts.append(Terms(values, names, weights, [group] * n, [(spec.per, level)] * n, uses))
    out = parts[0]
    for part in parts[1:]:
        out = _join(out, part)
    return out


def _basis(name: str, u: np.ndarray, covariates: tuple[str, ...], options: Mapping[str, Any]) -> bases.Columns:
    """Evaluate a basis where all covariates are there, NaN elsewhere (a spline cannot take NaN)."""
    there = np.isfinite(u).all(axis=1)
    inner = bases.columns(name, np.where(there[:, None], u, 0.0), list(covariates), options)
    return inner._replace(values=np.where(there[:, None], inner.values, np.nan))


def _join(a: Terms, b: Terms) -> Terms:
    return Terms(
        np.concatenate([a.values, b.values], axis=1),
        a.names + b.names,
        np.concatenate([a.weights, b.weights]),
        a.groups + b.groups,
        a.levels + b.levels,
        a.covariates + b.covariates,
    )
