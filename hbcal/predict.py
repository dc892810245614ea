"""What would a survey report for a star? The posterior predictive of a new measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np
import xarray as xr

from hbcal.catalogue.catalogue import Catalogue
from hbcal.catalogue.target import Query
from hbcal.catalogue.values import rows_of
from hbcal.draws import Draws, label_draws
from hbcal.groups import depends_on_true
from hbcal.mixture import CHUNK, Mixture
from hbcal.numerics.outliers import outlier_log_joint, true_value
from hbcal.recipe import Recipe
from hbcal.solve import beside, solve_stars

PIECE = 2**17
FEW_DRAWS = 100  # where every draw comes with all hypotheses about outliers
LEVELS = {"q05": 0.05, "q16": 0.1587, "q50": 0.5, "q84": 0.8413, "q95": 0.95}


@dataclass(frozen=True)
class Predicted:
    """Answers in the order of the questions: name -> (n_row,), label units; ``reason`` where there is no answer."""

    columns: Mapping[str, np.ndarray]


def predict_draws(recipe: Recipe, posterior: xr.Dataset, catalogue: Catalogue, query: Query) -> Predicted:
    """y_new = z_i + delta_s + beta_s . phi(x_is) + noise, with z_i from every measurement of the star in the run.

    Where phi depends on true labels, z_i is the vector of them that `hbcal.solve.solve` finds.

    Per draw, z_i ~ N(sum_t w_t r_t / W, 1 / W) with r_t = y_t - shift_t and w_t = 1 / noise_t^2; the new measurement
    adds its own shift and noise. With outliers z_i is a mixture over which of the measurements are, and the quantiles
    include that the new one may be one too; `mean` and `sd` are those of a new measurement that is not. A row without
    an error is given the survey's median error.

    Args:
        recipe, posterior, catalogue: of the run.
        query: star, survey, label, error per row, and perhaps the value that was measured.

    Returns:
        `Predicted` with star, survey, label, mean, sd, q05, q16, q50, q84, q95, reason; for a query with values also
        log_density (per label unit) and pit, the predictive probability of less than the value.

    Errors:
        None: rows without an answer say why.

    Example:
        >>> run = tiny_run()
        >>> names = (np.array([name], dtype=object) for name in ("star01", "s2", "fe_h"))
        >>> query = Query(*names, np.array([np.nan]))  # no error: the survey's typical one
        >>> list(predict_draws(run.recipe, run.posterior, run.catalogue, query).columns)
        ['star', 'survey', 'label', 'mean', 'sd', 'q05', 'q16', 'q50', 'q84', 'q95', 'reason']
    """
    n_row = len(query.star)
    measured = ("log_density", "pit") if query.value is not None else ()
    out = {name: np.full(n_row, np.nan) for name in ("mean", "sd", *LEVELS, *measured)}
    reason = np.full(n_row, "", dtype=object)
    star = rows_of(query.star, catalogue.stars)
    reason[star < 0] = "star not in the run"
    for row, (survey, label) in enumerate(zip(query.survey, query.label, strict=True)):
        if survey not in catalogue.surveys:
            reason[row] = f"survey {survey!r} not in the run"
        elif label not in catalogue.labels:
            reason[row] = f"label {label!r} not in the run"
    open_rows = reason == ""
    pairs = {(str(s), str(l)) for s, l in zip(query.survey[open_rows], query.label[open_rows], strict=True)}
    for label in sorted({l for _, l in pairs}):
        drawn = label_draws(recipe, posterior, label)
        if any(d.rate.any() for d in drawn.values()):
            drawn = {s: d.thinned(FEW_DRAWS) for s, d in drawn.items()}
        others = beside(recipe, posterior, label)
        for survey in sorted({s for s, l in pairs if l == label}):
            rows = np.flatnonzero(open_rows & (query.survey == survey) & (query.label == label))
            if survey not in drawn:
                reason[rows] = f"{label} of {survey} was not calibrated"
                continue
            told = told_by(recipe, drawn, survey, label)
            for start in range(0, len(rows), CHUNK):
                at = rows[start : start + CHUNK]
                reason[at] = _answer(catalogue, told, others, drawn[survey], star[at], query, at, out)
    columns = {"star": query.star, "survey": query.survey, "label": query.label, **out, "reason": reason}
    return Predicted(columns)


def told_by(recipe: Recipe, drawn: Mapping[str, Draws], survey: str, label: str) -> dict[str, Draws]:
    """Surveys whose measurements tell the true label on the scale that a survey's measurements are compared with.

    Args:
        recipe: of the run.
        drawn: survey -> draws of that label.
        survey, label: whose measurement is asked about.

    Returns:
        Those of `drawn` that tell: of a voting survey the voting ones; of one on a scale of its own itself; of a
        dependent survey all but the dependent ones.

    Errors:
        KeyError for a survey the recipe does not have.

    Example:
        >>> run = tiny_run()
        >>> drawn = label_draws(run.recipe, run.posterior, "fe_h")
        >>> list(told_by(run.recipe, drawn, "s1", "fe_h"))
        ['s0', 's1', 's2']
    """
    if recipe.surveys[survey].depends_on:
        return {s: d for s, d in drawn.items() if not recipe.surveys[s].depends_on}
    if label in recipe.surveys[survey].own_scale:
        return {s: d for s, d in drawn.items() if s == survey}
    return {s: d for s, d in drawn.items() if recipe.votes(s, label)}


def parents_of(
    recipe: Recipe, cat: Catalogue, survey: str, label: str, star: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What the surveys that a survey depends on report for some stars.

    Args:
        recipe, cat: of the run.
        survey, label: whose parents.
        star: star numbers, (n,).

    Returns:
        Values (n, n_parent), means of repeated visits, label unit, 0 where there is none; where there is one.

    Errors:
        KeyError for a survey the recipe does not have.

    Example:
        >>> run = tiny_run()
        >>> parents_of(run.recipe, run.catalogue, "s1", "fe_h", np.arange(3))[0].shape  # depends on none
        (3, 0)
    """
    parents = recipe.surveys[survey].depends_on
    values, seen = np.zeros((len(star), len(parents))), np.zeros((len(star), len(parents)), bool)
    for j, parent in enumerate(parents):
        at = (cat.survey == cat.surveys.index(parent)) & (cat.label == cat.labels.index(label))
        count = np.bincount(cat.star[at], minlength=cat.n_star)
        total = np.bincount(cat.star[at], weights=cat.value[at], minlength=cat.n_star)
        seen[:, j] = count[star] > 0
        values[:, j] = total[star] / np.maximum(count[star], 1)
    return values, seen


@dataclass(frozen=True)
class Truth:
    """Posterior of the true label of some stars.

    Attributes:
        z: mixture over draws and hypotheses about outliers; NaN for a star without measurements.
        count: how many measurements each stems from, (n_row,).
    """

    z: Mixture
    count: np.ndarray

    def rows(self, which: np.ndarray) -> Truth:
        """Those of some stars."""
        return Truth(self.z.rows(which), self.count[which])

    def within(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean, and mean over the draws of the variance within each, (n_row,): what one draw leaves open."""
        weight = self.z.weight / self.z.weight.sum(2, keepdims=True)
        mean = (weight * self.z.mean).sum(2)
        var = (weight * (self.z.sd**2 + (self.z.mean - mean[..., None]) ** 2)).sum(2)
        return mean.mean(1), var.mean(1)


def true_label(catalogue: Catalogue, drawn: Mapping[str, Draws], label: str, star: np.ndarray) -> Truth:
    """Posterior of the true label of some stars.

    Args:
        catalogue: of the run.
        drawn: survey -> draws of that label.
        label: which.
        star: star numbers, (n,).

    Returns:
        `Truth`, label unit.

    Errors:
        None: a star without measurements has NaN.

    Example:
        >>> run = tiny_run()
        >>> drawn = {"s1": label_draws(run.recipe, run.posterior, "fe_h")["s1"]}
        >>> star = run.catalogue.star[run.catalogue.survey == 1][:3]
        >>> truth = true_label(run.catalogue, drawn, "fe_h", star)
        >>> truth.z.mean.shape, truth.count.tolist()
        ((3, 400, 1), [1, 1, 1])
    """
    rows = np.flatnonzero((catalogue.label == catalogue.labels.index(label)) & np.isin(catalogue.star, star))
    rows = rows[np.isin(catalogue.survey[rows], [catalogue.surveys.index(s) for s in drawn])]
    rows = rows[np.argsort(catalogue.star[rows], kind="stable")]
    n_draw = len(next(iter(drawn.values())).error_scale)
    residual, var = np.empty((len(rows), n_draw)), np.empty((len(rows), n_draw))
    rate = np.empty((len(rows), n_draw))
    for survey, d in drawn.items():
        s = catalogue.surveys.index(survey)
        at = np.flatnonzero(catalogue.survey[rows] == s)
        x = catalogue.x[catalogue.star[rows[at]], s]
        residual[at] = catalogue.value[rows[at], None] - d.shift(x)
        var[at] = d.noise(x, catalogue.error[rows[at]]) ** 2
        rate[at] = d.rate
    first = np.searchsorted(catalogue.star[rows], star, "left")
    count = np.searchsorted(catalogue.star[rows], star, "right") - first
    outliers = bool(rate.any())
    n_hypothesis = 1 + outliers * int((count + count * (count - 1) // 2 * (count > 2)).max(initial=0))
    shape = (len(star), n_draw, n_hypothesis)
    mean, sd, weight = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape)
    for n in np.unique(count[count > 0]):
        here = np.flatnonzero(count == n)
        at = first[here][:, None] + np.arange(n)
        take = lambda x, at=at: np.moveaxis(x[at], 1, 2)  # noqa: E731  (n_here, n_draw, n)
        m, v, w = _of_star(take(residual), take(var), take(rate), outliers=outliers)
        k = m.shape[2]
        mean[here, :, :k], sd[here, :, :k], weight[here, :, :k] = m, np.sqrt(v), w / n_draw
        mean[here, :, k:], sd[here, :, k:] = m[..., :1], np.sqrt(v[..., :1])  # of weight zero
    return Truth(Mixture(mean, sd, weight), count)


def _of_star(residual, var, rate, *, outliers):
    """Mean, variance and weight per hypothesis, each (n_star, n_draw, n_hypothesis), of stars with n measurements."""
    if not outliers:
        total = (1.0 / var).sum(2, keepdims=True)
        mean = (residual / var).sum(2, keepdims=True) / total
        return mean, 1.0 / total, np.ones_like(total)
    shape = residual.shape
    rate = np.clip(rate, 1e-12, 0.5)  # an anchor has none: its logarithm must be finite
    flat = [x.reshape(-1, shape[2]) for x in (residual, var, np.log(rate) - np.log1p(-rate))]
    parts = []
    for start in range(0, len(flat[0]), PIECE):
        here = [x[start : start + PIECE] for x in flat]
        pad = [np.concatenate([x, np.ones((PIECE - len(x), shape[2]))]) for x in here]  # one compiled shape
        parts.append([np.asarray(x)[: len(here[0])] for x in _hypotheses(*pad)])
    joint, mean, var = (np.concatenate(x) for x in zip(*parts, strict=True))
    weight = np.exp(joint - joint.max(1, keepdims=True))
    weight /= weight.sum(1, keepdims=True)
    return tuple(x.reshape(*shape[:2], -1) for x in (mean, var, weight))


@jax.jit
def _hypotheses(residual, var, odds):
    return (outlier_log_joint(residual, var, odds), *true_value(residual, var))


@dataclass(frozen=True)
class Predictive:
    """What a survey would report for some stars.

    Attributes:
        core: if the measurement is no outlier, label unit.
        whole: if it may be one.
        count: how many measurements tell the star's true label, (n_row,).
    """

    core: Mixture
    whole: Mixture
    count: np.ndarray


def predictive(
    catalogue: Catalogue, told: Mapping[str, Draws], d: Draws, star: np.ndarray, error: np.ndarray,
    others: Sequence[Draws] = (),
) -> Predictive:  # fmt: skip
    """What a survey would report for some stars.

    Args:
        catalogue: of the run.
        told: survey -> draws of the label, of those that tell the true label.
        d: draws of the survey asked about; of a dependent one with what it takes from its parents.
        star: star numbers, (n,).
        error: of the measurements to be, label unit, NaN for none.
        others: draws of the other labels, where a label may depend on them.

    Returns:
        `Predictive`.

    Errors:
        None: a star that nothing is known about has NaN.

    Example:
        >>> run = tiny_run()
        >>> told = label_draws(run.recipe, run.posterior, "fe_h")
        >>> what = predictive(run.catalogue, told, told["s2"], np.array([3]), np.array([0.05]))
        >>> bool(what.core.spread()[0] > 0.05)
        True
    """
    x = catalogue.x[star, catalogue.surveys.index(d.survey)]
    if d.recipe.program == "crosscal_structural":
        z = solve_stars(catalogue, [*told.values(), *others], star)
        mean, sd = z.reported(d, x)
        whole = Mixture.of_draws(mean, np.hypot(sd, d.noise(x, error)))
        return Predictive(
            whole, whole, np.where(np.isfinite(mean[:, 0]), z.count[:, catalogue.labels.index(d.label)], 0)
        )
    truth = true_label(catalogue, told, d.label, star)
    shift, noise = d.shift(x), d.noise(x, error)
    own = truth.z.measured(shift, noise)
    if d.inherited is None:
        return Predictive(own, own.blunders(noise, d.rate), truth.count)
    values, seen = parents_of(d.recipe, catalogue, d.survey, d.label, star)
    core, whole = (x.copied(values, seen, d.inherited) for x in _mixed(truth.z, own, shift, noise, values, seen, d))
    return Predictive(core, whole, truth.count)


def _mixed(z, own, shift, noise, values, seen, d):
    """Own where no parent measured the star, else mixed with the parents' mean; without and with outliers."""
    taken = d.inherited
    any_seen = seen.any(1)
    middle = values.sum(1) / np.maximum(seen.sum(1), 1)
    share = taken.share[None, :, None]
    mean = (1.0 - share) * (z.mean + shift[..., None]) + share * middle[:, None, None] + taken.offset[None, :, None]
    noise = np.where(any_seen[:, None], taken.floor[None], noise)
    sd = np.hypot((1.0 - share) * z.sd, noise[..., None])
    at = any_seen[:, None, None]
    core = Mixture(np.where(at, mean, own.mean), np.where(at, sd, own.sd), z.weight)
    return core, core.blunders(noise, d.rate)


def _answer(catalogue, told, others, d, star, query, at, out) -> np.ndarray:
    """Fill the rows `at` of `out`; returns the reasons."""
    reason = np.full(len(star), "", dtype=object)
    s, l = catalogue.surveys.index(d.survey), catalogue.labels.index(d.label)
    own = catalogue.error[(catalogue.survey == s) & (catalogue.label == l)]
    typical = np.nanmedian(own) if np.isfinite(own).any() else np.nan
    error = np.where(np.isnan(query.error[at]), typical, query.error[at])
    found = predictive(catalogue, told, d, star, error, others)
    needs = ", ".join(dict.fromkeys((d.label, *depends_on_true(d.recipe, d.survey, d.label))))
    reason[found.count == 0] = f"no measurement of {needs} for this star"
    x = catalogue.x[star, s]
    covariates = sorted({c for names in d.terms(x).covariates for c in names if not d.recipe.covariates[c].true})
    for c in covariates:
        bad = np.isnan(x[:, catalogue.covariates.index(c)]) & (reason == "")
        reason[bad] = f"covariate {c} of {d.survey} is missing for this star"
    ok = reason == ""
    if ok.any():
        core, whole, rows = found.core.rows(ok), found.whole.rows(ok), at[ok]
        out["mean"][rows], out["sd"][rows] = core.centre(), core.spread()
        for name, q in zip(LEVELS, whole.quantiles(tuple(LEVELS.values())).T, strict=True):
            out[name][rows] = q
        if query.value is not None:
            value = query.value[rows]
            out["log_density"][rows], out["pit"][rows] = whole.log_density(value), whole.cdf(value)
    return reason
