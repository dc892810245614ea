"""Data with known truth, from a recipe's own prior or from given values; in memory, or as the files it reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import xarray as xr
from numpyro.handlers import seed as seeded
from numpyro.handlers import trace

from hbcal._errors import HbcalError, closest
from hbcal.catalogue.catalogue import Catalogue
from hbcal.catalogue.observe import observe
from hbcal.catalogue.write import write_table
from hbcal.cluster_sky import gathered, listed_members, member_table, z_range
from hbcal.design import Prepared, named_quantities, prepare
from hbcal.draws import draws_of
from hbcal.folder import check_out, write_text
from hbcal.numerics.outliers import INFLATION, most_outliers
from hbcal.problem import task_of
from hbcal.recipe import Recipe, load_recipe
from hbcal.sky_noise import correlation_columns, drawn_noise, given_pattern
from hbcal.terms import true_reference
from hbcal.tree import DIMS, axes


@dataclass(frozen=True)
class Simulated:
    """A catalogue and its truth.

    Attributes:
        catalogue: as if observed.
        truth: offset, trend, error_scale, floor, floor_trend, prior_sd with named dims, label units; one draw.
        z: true labels, (n_star, n_label).
        outlier: which measurements are blunders, (n_measurement,); none for a program without outliers.
    """

    catalogue: Catalogue
    truth: xr.Dataset
    z: np.ndarray
    outlier: np.ndarray


def simulate(
    recipe: Recipe | str | Path,
    out: str | Path | None = None,
    *,
    seed: int = 0,
    n_star: int | None = None,
    values: Mapping[str, Any] | None = None,
    data: str | Path | Catalogue | None = None,
) -> Simulated:
    """Simulate a survey overlap: who sees whom, then offsets and noise, then measurements.

    Args:
        recipe: a `Recipe`, a path, or the name of a packaged one.
        out: folder for the files the recipe reads, ``truth.csv`` and ``truth_stars.csv``; None to keep it in memory.
        seed: of every random number.
        n_star: number of stars; the recipe's where None.
        values: held fixed instead of drawn: quantity -> {"survey.label" or "survey.label.term": value}, label units.
        data: take stars, overlaps, errors and covariates from here (folder or `Catalogue`) and draw only the values.

    Returns:
        `Simulated`, in the recipe's units.

    Errors:
        HbcalError for an unknown value's name, a folder in use, a recipe that cannot be simulated.

    Example:
        >>> s = simulate("textbook", seed=1, n_star=50)
        >>> s.catalogue.n_star <= 50
        True
    """
    if out is not None:
        check_out(Path(out))
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    if n_star is not None and n_star < 2:
        raise HbcalError(f"The number of stars is {n_star}: a calibration needs at least 2.")
    rng = np.random.default_rng(seed)
    if data is None:
        pattern = _sky(recipe, rng, n_star or recipe.simulate.n_star)
    else:
        pattern = data if isinstance(data, Catalogue) else observe(recipe, Path(data))
    prepared = prepare(recipe, pattern)
    truth = _truth(prepared, seed, {**recipe.simulate.values, **(values or {})})
    simulated = _measure(prepared, truth, rng)
    if out is not None:
        _write(recipe, simulated, Path(out), seed)
    return simulated


def _sky(recipe: Recipe, rng: np.random.Generator, n_star: int) -> Catalogue:
    """Stars, covariates, who sees them and with what error; values are still zero."""
    spec = recipe.simulate
    surveys, labels, names = tuple(recipe.surveys), tuple(recipe.labels), tuple(recipe.covariates)
    owner = {c: s.survey for e in recipe.data for c, s in e.covariates.items()}
    x = np.full((n_star, len(surveys), len(names)), np.nan)
    for c, (name, covariate) in enumerate(recipe.covariates.items()):
        if covariate.levels:
            draw = rng.integers(0, len(covariate.levels), n_star).astype(float)
        else:
            low = spec.star_low.get(name, covariate.centre - 1.5 * covariate.scale)
            draw = rng.uniform(low, spec.star_high.get(name, covariate.centre + 1.5 * covariate.scale), n_star)
        x[:, slice(None) if not owner.get(name) else surveys.index(owner[name]), c] = (
            draw[:, None] if not owner.get(name) else draw
        )
    parts: list[np.ndarray] = []
    errors = []
    for s, survey in enumerate(surveys):
        seen = rng.random(n_star) < spec.seen.get(survey, 0.7)
        for l, label in enumerate(labels):
            if not _reports(recipe, survey, label):
                continue
            at = np.flatnonzero(seen)
            key = f"{survey}.{label}" if f"{survey}.{label}" in spec.error_low else label
            if key in spec.error_low:
                errors.append(rng.uniform(spec.error_low[key], spec.error_high.get(key, spec.error_low[key]), len(at)))
            elif label in recipe.surveys[survey].anchor and "floor" not in recipe.surveys[survey].free:
                raise HbcalError(
                    f"The recipe's simulate has no error_low for {label} of anchor {survey!r}: an anchor needs one."
                )
            else:
                errors.append(np.full(len(at), np.nan))
            parts.append(np.stack([at, np.full(len(at), s), np.full(len(at), l)]))
    star, survey_of, label_of = np.concatenate(parts, axis=1)
    star_level = np.array([not owner.get(c) and not recipe.covariates[c].own for c in names], bool)
    width = len(str(n_star))
    stars = np.array([f"star{i:0{width}d}" for i in range(n_star)], dtype=object)
    sky = Catalogue(
        stars, surveys, labels, names, star, survey_of, label_of, np.zeros(len(star)), np.concatenate(errors), x,
        star_level, members=listed_members(recipe, rng, n_star),
    )  # fmt: skip
    return given_pattern(recipe, sky)


def _reports(recipe: Recipe, survey: str, label: str) -> bool:
    declared = [(m.survey, m.label) for e in recipe.data for m in e.measurements]
    anchors_only = recipe.surveys[survey].anchor
    return (survey, label) in declared if declared else (not anchors_only or label in anchors_only)


def _truth(prepared: Prepared, seed: int, values: Mapping[str, Any]) -> xr.Dataset:
    """One draw of everything from the prior, then the given values in its place."""
    task = task_of(prepared)
    run = trace(seeded(task.program, jax.random.PRNGKey(seed))).get_trace(task.args[0], **task.kwargs)
    sites = {k: np.asarray(v["value"])[None, None] for k, v in run.items() if v["type"] == "sample" and k[:2] != "y_"}
    quantities = named_quantities(prepared, sites)
    coords, cat = axes(prepared), prepared.catalogue
    truth = xr.Dataset(
        {
            k: xr.DataArray(v, dims=("chain", "draw", *DIMS[k]), coords={d: coords[d] for d in DIMS[k]})
            for k, v in quantities.items()
        }
    )
    for label in cat.labels if cat.members is not None else ():  # the wide prior is no sky
        mean, low_high = truth["cluster_mean"].sel(label=label), z_range(prepared.recipe, label)
        drawn = np.random.default_rng([seed, 1]).uniform(*low_high, mean.shape)
        truth["cluster_mean"].loc[{"label": label}] = np.where(np.isfinite(mean), drawn, np.nan)
    for quantity, entries in values.items():
        if quantity not in DIMS or not isinstance(entries, Mapping):
            raise HbcalError(f"A value is given for {quantity!r}{closest(quantity, DIMS)}: give a table per quantity.")
        for key, value in entries.items():
            where = dict(zip(DIMS[quantity], key.split(".", len(DIMS[quantity]) - 1), strict=False))
            known = all(v in coords[d] for d, v in where.items()) and len(where) == len(DIMS[quantity])
            if not known or not np.isfinite(truth[quantity].sel(where)).all():
                raise HbcalError(f"A value is given for {quantity} of {key!r}, which this recipe does not have.")
            if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
                raise HbcalError(f"The value given for {quantity} of {key!r} is {value!r}: it must be a finite number.")
            truth[quantity].loc[where] = float(value)
    return truth


def _measure(prepared: Prepared, truth: xr.Dataset, rng: np.random.Generator) -> Simulated:
    recipe, pattern = prepared.recipe, prepared.catalogue
    z = np.stack([rng.uniform(*z_range(recipe, l), pattern.n_star) for l in pattern.labels], axis=1)
    _populate(z, prepared, truth, rng)
    blunder = _blunders(prepared, truth, rng)
    z = gathered(recipe, pattern, truth, rng, z)
    away = z - true_reference(recipe)
    value = np.full(len(pattern.value), np.nan)
    quoted, wide, white = np.zeros((3, len(value)))
    for s, survey in enumerate(pattern.surveys):
        for l, label in enumerate(pattern.labels):
            at = np.flatnonzero((pattern.survey == s) & (pattern.label == l))
            d = draws_of(recipe, truth, survey, label)
            if d is None or not at.size:
                continue
            x = pattern.x[pattern.star[at], s]
            quoted[at], wide[at] = (part[:, 0] for part in d.parts(x, pattern.error[at]))
            trend = (d.slopes(x)[:, :, 0] * away[pattern.star[at]]).sum(1)
            value[at] = z[pattern.star[at], l] + d.shift(x)[:, 0] + trend
            white[at] = rng.normal(size=len(at))
    value += np.where(blunder, np.sqrt(INFLATION), 1.0) * drawn_noise(pattern, truth, quoted, wide, white)
    there = np.isfinite(value)
    catalogue = replace(pattern, value=value).select(there, "not simulated: not in the fit, or of a dependent survey")
    catalogue, z = _agree(recipe, catalogue, z)
    return Simulated(catalogue, truth, z, blunder[there])


def _blunders(prepared: Prepared, truth: xr.Dataset, rng: np.random.Generator) -> np.ndarray:
    """Which measurements are outliers, (n_measurement,): drawn star by star until there are no more than may be."""
    pattern = prepared.catalogue
    out = np.zeros(len(pattern.value), bool)
    if "outlier_rate" not in truth:
        return out
    rate = np.nan_to_num(truth["outlier_rate"].to_numpy()[0, 0])
    for rows in prepared.rows:
        seen = np.bincount(prepared.joined.star[rows[rows >= 0]], minlength=pattern.n_star)
        at = rows[(rows >= 0) & (rows < len(out))]  # who is no member, the lists' probabilities decide
        chance = rate[pattern.survey[at], pattern.label[at]]
        most = most_outliers(seen)
        again = np.ones(len(at), bool)
        while again.any():
            out[at[again]] = rng.random(again.sum()) < chance[again]
            again = (np.bincount(pattern.star[at], out[at], pattern.n_star) > most)[pattern.star[at]]
    return out


def _populate(z: np.ndarray, prepared: Prepared, truth: xr.Dataset, rng: np.random.Generator) -> None:
    """Draw the true labels of the stars in a group from its population, those that its stars have measurements of."""
    for g in range(len(prepared.groups.names)):
        has = prepared.groups.measured[g]
        mean, sd, corr = (truth[f"population_{k}"].to_numpy()[0, 0, g] for k in ("mean", "sd", "corr"))
        covariance = (sd[:, None] * corr * sd)[has][:, has]
        stars = np.flatnonzero(prepared.groups.of_star == g)
        z[np.ix_(stars, np.flatnonzero(has))] = rng.multivariate_normal(mean[has], covariance, len(stars))


def _agree(recipe: Recipe, cat: Catalogue, z: np.ndarray) -> tuple[Catalogue, np.ndarray]:
    """Make covariates that are themselves reported labels agree with the values drawn.

    With a flat true value a star's common level is free, so a star whose survey "reported" x is moved, all its
    measurements together, until that survey's value is x.
    """
    value, z = cat.value.copy(), z.copy()
    for l, label in enumerate(cat.labels):
        claims = [
            (c, s) for c, name in enumerate(cat.covariates) for s, survey in enumerate(cat.surveys)
            if _is_own(recipe, name, survey, label)
        ]  # fmt: skip
        of_star = [c for c, name in enumerate(cat.covariates) if recipe.covariates[name].consensus == label]
        if (claims or of_star) and any(label in kind.spread for kind in recipe.clusters.values()):
            raise HbcalError(
                f"The recipe has {label} as a covariate and in clusters: moving a star to its covariate would take it "
                "out of its cluster, so such a recipe cannot be simulated."
            )
        if len({s for _, s in claims}) + bool(of_star) > 1:
            raise HbcalError(f"Two sources use their own {label} as a covariate: such a recipe cannot be simulated.")
        here = cat.label == l
        move = np.zeros(cat.n_star)
        for c, s in claims:
            rows = np.flatnonzero(here & (cat.survey == s))
            move[cat.star[rows]] = cat.x[cat.star[rows], s, c] - value[rows]
        for c in of_star:
            each = (
                pd.DataFrame({"i": cat.star[here], "s": cat.survey[here], "v": value[here]})
                .groupby(["i", "s"])["v"]
                .mean()
            )
            middle = each.groupby(level=0).median()
            move[middle.index.to_numpy()] = cat.x[middle.index.to_numpy(), 0, c] - middle.to_numpy()
        value[here] += move[cat.star[here]]
        z[:, l] += move
    return replace(cat, value=value), z


def _is_own(recipe: Recipe, covariate: str, survey: str, label: str) -> bool:
    if recipe.covariates[covariate].own == label:
        return True
    for entry in recipe.data:
        spec = entry.covariates.get(covariate)
        if spec and spec.survey == survey:
            return any((m.survey, m.label, m.value) == (survey, label, spec.column) for m in entry.measurements)
    return False


def _write(recipe: Recipe, simulated: Simulated, out: Path, seed: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    files: dict[str, dict[str, np.ndarray]] = {}
    for entry in recipe.data:
        tables = {"long": _long_table, "wide": _wide_table, "stars": _star_table}
        columns = tables[entry.layout](recipe, simulated.catalogue, entry)
        for name, allowed in entry.keep.items():
            n_row = len(next(iter(columns.values())))
            columns.setdefault(name, np.array([allowed[0]] * n_row, dtype=object))
        files[entry.file] = columns
    for kind, spec in recipe.clusters.items():  # a table of stars may list the members, too
        files[spec.file] = member_table(simulated.catalogue, kind, spec) | files.get(spec.file, {})
    for name, columns in files.items():
        write_table(out / name, columns, {}, {"simulated": f"hbcal simulate {recipe.name} --seed {seed}"})
    rows = []
    for quantity, variable in simulated.truth.data_vars.items():
        for at in np.ndindex(*variable.shape[2:]):
            value = variable.to_numpy()[(0, 0, *at)]
            if np.isfinite(value):
                where = {str(d): str(variable[d].values[i]) for d, i in zip(variable.dims[2:], at, strict=True)}
                term = " ".join(v for d, v in where.items() if d not in ("survey", "label"))
                rows.append((str(quantity), where.get("survey", ""), where.get("label", ""), term, float(value)))
    names = ("quantity", "survey", "label", "term", "value")
    table = {
        n: np.array(c, dtype=object if n != "value" else float)
        for n, c in zip(names, zip(*rows, strict=True), strict=True)
    }
    write_table(out / "truth.csv", table, {}, {})
    cat = simulated.catalogue
    truths = {label: simulated.z[:, l] for l, label in enumerate(cat.labels)}
    write_table(out / "truth_stars.csv", {"star": cat.stars, **truths}, {}, {})
    write_text(out / "simulated.json", json.dumps({"recipe": recipe.name, "seed": seed, "n_star": cat.n_star}))


def _long_table(recipe: Recipe, cat: Catalogue, entry: Any) -> dict[str, np.ndarray]:
    name = lambda role: entry.columns.get(role, role)  # noqa: E731
    surveys, labels = np.array(cat.surveys, dtype=object), np.array(cat.labels, dtype=object)
    return {
        name("star") if "star" in entry.columns else entry.star: cat.stars[cat.star],
        name("survey"): surveys[cat.survey],
        name("label"): labels[cat.label],
        name("value"): cat.value,
        name("error"): cat.error,
    }


def _wide_table(recipe: Recipe, cat: Catalogue, entry: Any) -> dict[str, np.ndarray]:
    out: dict[str, np.ndarray] = {entry.star: cat.stars}
    for m in entry.measurements:
        at = (cat.survey == cat.surveys.index(m.survey)) & (cat.label == cat.labels.index(m.label))
        value, error = np.full(cat.n_star, np.nan), np.full(cat.n_star, np.nan)
        value[cat.star[at]], error[cat.star[at]] = cat.value[at], cat.error[at]
        if m.transform == "log10":
            value = 10.0**value
            error = error * value * np.log(10.0)
        out[m.value] = value
        out |= dict.fromkeys(m.error, error)
    out |= correlation_columns(cat, entry)
    return out | {k: v for k, v in _covariate_columns(recipe, cat, entry).items() if k not in out}


def _star_table(recipe: Recipe, cat: Catalogue, entry: Any) -> dict[str, np.ndarray]:
    return {entry.star: cat.stars, **_covariate_columns(recipe, cat, entry)}


def _covariate_columns(recipe: Recipe, cat: Catalogue, entry: Any) -> dict[str, np.ndarray]:
    out = {}
    for name, spec in entry.covariates.items():
        x = cat.x[:, cat.surveys.index(spec.survey) if spec.survey else 0, cat.covariates.index(name)]
        x = 10.0**x if spec.transform == "log10" else x
        levels = np.array([*recipe.covariates[name].levels, ""], dtype=object)
        out[spec.column] = (
            levels[np.minimum(np.nan_to_num(x, nan=99), len(levels) - 1).astype(int)] if len(levels) > 1 else x
        )
    return out
