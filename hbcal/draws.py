"""Posterior draws of one (survey, label), and what they say about a measurement: what apply and predict compute."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from hbcal.recipe import Recipe
from hbcal.terms import Terms, floor_terms, trend_terms, true_slopes

MOST_DRAWS = 500


@dataclass(frozen=True)
class Inherited:
    """Draws of what a dependent survey takes from its parents, see `hbcal.programs.crosscal_dependents`.

    Attributes:
        share, offset, floor: lambda, mu, sigma, (n_draw,).
        odds, copy_offset, copy_sd: per parent, (n_draw, n_parent); odds 0 where nothing is copied.
    """

    share: np.ndarray
    offset: np.ndarray
    floor: np.ndarray
    odds: np.ndarray
    copy_offset: np.ndarray
    copy_sd: np.ndarray


@dataclass(frozen=True)
class Draws:
    """Draws of one survey's calibration of one label.

    Attributes:
        coefficient: zero point and trends, (n_draw, n_term), label unit; None for an anchor.
        error_scale: (n_draw,); 1 where the survey reports no errors.
        floor: (n_draw,), label unit, at the reference of the floor's covariates.
        floor_trend: (n_draw, n_floor_term).
        rate: share of outliers, (n_draw,); 0 for a program without them.
        inherited: of a dependent survey.
        survey, label: which.
    """

    recipe: Recipe
    survey: str
    label: str
    coefficient: np.ndarray | None
    error_scale: np.ndarray
    floor: np.ndarray
    floor_trend: np.ndarray
    rate: np.ndarray
    inherited: Inherited | None = None

    def thinned(self, n: int) -> Draws:
        """About n draws, evenly spaced: enough where only a mean is wanted."""
        pick = slice(None, None, max(1, len(self.error_scale) // n))
        coefficient = None if self.coefficient is None else self.coefficient[pick]
        taken = self.inherited and Inherited(**{k: v[pick] for k, v in vars(self.inherited).items()})
        return replace(
            self, coefficient=coefficient, error_scale=self.error_scale[pick], floor=self.floor[pick],
            floor_trend=self.floor_trend[pick], rate=self.rate[pick], inherited=taken,
        )  # fmt: skip

    def terms(self, x: np.ndarray) -> Terms:
        """Design columns of these stars; none for an anchor. x: (n_row, n_covariate)."""
        terms = trend_terms(self.recipe, self.survey, self.label, x)
        if self.coefficient is None:
            return Terms(np.zeros((len(x), 0)), [], np.zeros(0), [], [], [])
        return terms

    def shift(self, x: np.ndarray) -> np.ndarray:
        """What the survey adds to the true label, (n_row, n_draw); NaN where a covariate is missing."""
        n_draw = len(self.error_scale)
        if self.coefficient is None:
            return np.zeros((len(x), n_draw))
        return self.terms(x).values @ self.coefficient.T

    def slopes(self, x: np.ndarray) -> np.ndarray:
        """How that grows with each true label, (n_row, n_label, n_draw); `shift` is at their reference."""
        n_draw = len(self.error_scale)
        if self.coefficient is None:
            return np.zeros((len(x), len(self.recipe.labels), n_draw))
        return np.einsum("ntl,dt->nld", true_slopes(self.recipe, self.survey, self.label, x), self.coefficient)

    def noise(self, x: np.ndarray, error: np.ndarray) -> np.ndarray:
        """Noise sd of a measurement, sqrt((a e)^2 + tau(x)^2), (n_row, n_draw); a missing error counts as none."""
        return np.hypot(*self.parts(x, error))

    def parts(self, x: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The two parts of the noise sd, a e and tau(x), each (n_row, n_draw)."""
        quoted = np.nan_to_num(np.asarray(error, float))[:, None] * self.error_scale
        wide = np.broadcast_to(self.floor, quoted.shape)
        if self.floor_trend.shape[1]:
            psi = floor_terms(self.recipe, self.survey, self.label, x).values
            wide = wide * np.exp(np.clip(psi @ self.floor_trend.T, -5.0, 5.0))
        return quoted, wide


def draws_of(recipe: Recipe, posterior: xr.Dataset, survey: str, label: str) -> Draws | None:
    """Pick one survey's draws of a label out of a posterior, thinned evenly to at most `MOST_DRAWS`.

    Args:
        recipe: the run's.
        posterior: with dims (chain, draw, survey, label, ...), label units.
        survey, label: which.

    Returns:
        `Draws`, or None when the run did not calibrate that label of that survey.

    Errors:
        KeyError for a survey or label the run does not have.

    Example:
        >>> d = draws_of(tiny_run().recipe, tiny_run().posterior, "s1", "fe_h")
        >>> d.coefficient.shape, d.shift(np.zeros((5, 2))).shape  # 2 chains of 200: offset and two trends; 5 stars
        ((400, 3), (5, 400))
    """
    one = posterior.sel(survey=survey, label=label)
    n = one["offset"].size  # not -1 below: a recipe without trends or floor terms has axes of length 0
    flat = {
        k: one[k].to_numpy().reshape(n, *one[k].shape[2:])
        for k in ("offset", "trend", "error_scale", "floor", "floor_trend")
    }
    pick = _picked(n)
    flat = {k: v[pick] for k, v in flat.items()}
    if np.isnan(flat["offset"]).all():
        return None
    empty = np.zeros((1, len(recipe.covariates)))
    names = trend_terms(recipe, survey, label, empty).names[1:]
    where = {str(t): i for i, t in enumerate(posterior["term"].values)} if "term" in posterior.coords else {}
    is_anchor = label in recipe.surveys[survey].anchor
    coefficient = None
    if not is_anchor:
        trend = flat["trend"][:, [where[name] for name in names if name in where]]
        coefficient = np.column_stack([flat["offset"], np.nan_to_num(trend)])
    floor_names = floor_terms(recipe, survey, label, empty).names if not is_anchor else []
    floor_where = (
        {str(t): i for i, t in enumerate(posterior["floor_term"].values)} if "floor_term" in posterior.coords else {}
    )
    gamma = np.nan_to_num(flat["floor_trend"][:, [floor_where[name] for name in floor_names if name in floor_where]])
    scale = np.where(np.isnan(flat["error_scale"]), 1.0, flat["error_scale"])
    rate = np.zeros(len(pick))
    if "outlier_rate" in one:
        rate = np.nan_to_num(one["outlier_rate"].to_numpy().reshape(n)[pick])
    floor = np.nan_to_num(flat["floor"])
    return Draws(recipe, survey, label, coefficient, scale, floor, gamma, rate, _inherited(recipe, one, survey, pick))


def _picked(n: int) -> np.ndarray:
    return np.unique(np.linspace(0, n - 1, min(n, MOST_DRAWS)).astype(int))


def correlation_draws(posterior: xr.Dataset, survey: str) -> np.ndarray:
    """Draws of the correlations between a survey's labels, the draws that `draws_of` picks.

    Args:
        posterior: of a run.
        survey: which.

    Returns:
        (n_draw, n_label, n_label), the posterior's labels; 1 on the diagonal, 0 where none was fitted.

    Errors:
        KeyError for a survey the run does not have.

    Example:
        >>> correlation_draws(tiny_run().posterior, "s1").shape  # none was fitted
        (400, 1, 1)
    """
    n, n_label = posterior.sizes["chain"] * posterior.sizes["draw"], posterior.sizes["label"]
    pick, eye = _picked(n), np.eye(n_label)
    if "correlation" not in posterior:
        return np.broadcast_to(eye, (len(pick), n_label, n_label))
    drawn = posterior["correlation"].sel(survey=survey).transpose("chain", "draw", "label", "label_2").to_numpy()
    drawn = drawn.reshape(n, n_label, n_label)[pick]
    return np.where(np.isfinite(drawn), drawn, eye)


def label_draws(recipe: Recipe, posterior: xr.Dataset, label: str) -> dict[str, Draws]:
    """Draws of every survey that has a label.

    Args:
        recipe: the run's.
        posterior: as for `draws_of`.
        label: which.

    Returns:
        Survey -> `Draws`, in the posterior's order, label unit.

    Errors:
        KeyError for a label the run does not have.

    Example:
        >>> list(label_draws(tiny_run().recipe, tiny_run().posterior, "fe_h"))
        ['s0', 's1', 's2']
    """
    surveys = [str(s) for s in posterior["survey"].values]
    return {s: d for s in surveys if (d := draws_of(recipe, posterior, s, label)) is not None}


def _inherited(recipe: Recipe, one: xr.Dataset, survey: str, pick: np.ndarray) -> Inherited | None:
    parents = list(recipe.surveys[survey].depends_on)
    if not parents or "share" not in one:
        return None
    n = one["offset"].size
    names = ("share", "inherited_offset", "inherited_floor")
    scalars = [np.nan_to_num(one[name].to_numpy().reshape(n)[pick]) for name in names]
    each = [one[name].sel(parent=parents) for name in ("copy_odds", "copy_offset", "copy_sd")]
    odds, offset, sd = (np.nan_to_num(v.to_numpy().reshape(n, -1)[pick]) for v in each)
    share, shift, floor = scalars
    return Inherited(share, shift, floor, odds, offset, np.where(odds > 0, sd, 1.0))
