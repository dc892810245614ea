"""What a recipe's values must satisfy: everything it mentions is declared in it, and every number can be used."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from hbcal._errors import HbcalError, refuse_unknown, some
from hbcal.recipe_correlations import check_correlations
from hbcal.recipe_spec import DataSpec, Recipe, SimulateSpec

ROLES = {
    "long": ("star", "survey", "label", "value", "error", "error_lower", "error_upper"),
    "wide": ("star",),
    "stars": ("star",),
    "labels": ("star",),
}


NEVER_SHARED = ("teff", "logteff", "logg", "temp", "grav")


def check_recipe(recipe: Recipe) -> None:
    """Refuse a recipe that no data could save.

    Args:
        recipe: built from its file, every value of the right type.

    Returns:
        Nothing.

    Errors:
        HbcalError for a name that nothing declares (with the closest valid one), or a number that cannot be used.

    Example:
        >>> from dataclasses import replace
        >>> from hbcal import load_recipe
        >>> check_recipe(replace(load_recipe("textbook"), clip=-1.0))
        Traceback (most recent call last):
        hbcal._errors.HbcalError: The recipe's clip is -1.0: it must be 0 (off) or positive.
    """
    if not recipe.labels:
        raise HbcalError("The recipe declares no label: add a [labels.<name>] table.")
    if len(recipe.surveys) < 2 - bool(recipe.clusters):
        raise HbcalError(
            f"The recipe declares {len(recipe.surveys)} survey: a calibration needs at least two, or one and clusters."
        )
    _check_labels(recipe)
    _check_covariates(recipe)
    for survey, spec in recipe.surveys.items():
        refuse_unknown(spec.anchor, recipe.labels, "label", f"survey {survey!r}")
        refuse_unknown(spec.free, ("error_scale", "floor", "outlier_rate"), "quantity to free", f"survey {survey!r}")
    _check_dependence(recipe)
    _check_clusters(recipe)
    for entry in recipe.data:
        _check_data(recipe, entry)
    _check_terms(recipe)
    _check_structural(recipe)
    check_correlations(recipe)
    _check_sampling(recipe)
    _check_simulate(recipe, recipe.simulate)


def _positive(value: float, where: str) -> None:
    if not 0 < value < math.inf:
        raise HbcalError(f"{where} is {value}: it must be positive and finite.")


def _one_scale(values: Mapping[str, float], where: str, meaning: str) -> None:
    """Exactly one of a fixed prior sd and the scale of a learnt one."""
    if sum(v > 0 for v in values.values()) != 1 or not all(0 <= v < math.inf for v in values.values()):
        told = ", ".join(f"{name} = {value:g}" for name, value in values.items())
        raise HbcalError(f"{where} needs exactly one of {meaning}, positive and finite; it has {told}.")


def _ordered(limits: tuple[float, float], where: str) -> None:
    if not limits[0] < limits[1]:
        raise HbcalError(f"{where} has the range [{limits[0]:g}, {limits[1]:g}]: it must be [low, high], low < high.")


def _check_labels(recipe: Recipe) -> None:
    for name, label in recipe.labels.items():
        values = {"offset_sd": label.offset_sd, "offset_scale": label.offset_scale}
        meaning = "offset_sd (the prior sd of a zero point) and offset_scale (the scale of a learnt one)"
        _one_scale(values, f"Label {name!r}", f"{meaning}, in {label.unit}")
        _positive(label.floor_scale, f"The floor_scale of label {name!r}")
        _ordered(label.range, f"Label {name!r}")


def _check_covariates(recipe: Recipe) -> None:
    for name, covariate in recipe.covariates.items():
        refuse_unknown(
            filter(None, (covariate.own, covariate.consensus, covariate.true)),
            recipe.labels,
            "label",
            f"covariate {name!r}",
        )
        _positive(covariate.scale, f"The scale of covariate {name!r}")
        _ordered(covariate.range, f"Covariate {name!r}")
        if not math.isfinite(covariate.centre):
            raise HbcalError(f"The centre of covariate {name!r} is {covariate.centre}: it must be finite.")
        kinds = [k for k in ("own", "consensus", "true", "levels", "bits") if getattr(covariate, k)]
        if len(kinds) > 1:
            raise HbcalError(f"Covariate {name!r} has {' and '.join(kinds)}: it can be of one kind only.")
        if covariate.missing and not covariate.levels:
            raise HbcalError(f"Covariate {name!r} names the level 'missing' but has no levels: give it some.")
        if len(set(covariate.all_levels)) != len(covariate.all_levels):
            raise HbcalError(f"Covariate {name!r} lists a level twice: {some(covariate.all_levels, 9)}.")
        if any(not 0 <= bit < 53 for bit in covariate.bits):
            raise HbcalError(f"Covariate {name!r} has bits {some(covariate.bits, 9)}: a bit is a number from 0 to 52.")


def _check_dependence(recipe: Recipe) -> None:
    for survey, spec in recipe.surveys.items():
        refuse_unknown(spec.depends_on, recipe.surveys, "survey to depend on", f"survey {survey!r}")
        refuse_unknown(spec.own_scale, recipe.labels, "label", f"survey {survey!r}")
        both = sorted(set(spec.anchor) & set(spec.own_scale))
        if spec.depends_on and spec.anchor:
            raise HbcalError(
                f"Survey {survey!r} is an anchor ({some(spec.anchor)}) and depends on {some(spec.depends_on)}: an "
                "anchor decides what is true, a dependent survey has no say; drop one of the two."
            )
        if both:
            raise HbcalError(f"Survey {survey!r} is an anchor of {some(both)} and has it in own_scale: drop one.")
    done: set[str] = set()
    while True:  # what depends only on surveys that are done is done
        new = {s for s, spec in recipe.surveys.items() if s not in done and set(spec.depends_on) <= done}
        if not new:
            break
        done |= new
    circle = [s for s in recipe.surveys if s not in done]
    if circle:
        raise HbcalError(
            f"The surveys {some(circle, 9)} depend on each other in a circle: one of them must come first."
        )


def _check_clusters(recipe: Recipe) -> None:
    for kind, spec in recipe.clusters.items():
        where = f"clusters {kind!r}"
        if kind in recipe.surveys:
            raise HbcalError(f"The recipe's {where} are named like a survey: rename one of the two.")
        if not spec.spread:
            raise HbcalError(f"The recipe's {where} list no label in spread: name those that members share.")
        refuse_unknown(spec.spread, recipe.labels, "label", where)
        for label, scale in spec.spread.items():
            if recipe.unit(label) != "dex" or "".join(filter(str.isalnum, label.lower())).startswith(NEVER_SHARED):
                raise HbcalError(
                    f"The recipe's {where} list {label!r} [{recipe.unit(label)}] in spread: members of a cluster share "
                    "abundances in dex, never Teff or log g; take it out."
                )
            _positive(scale, f"The spread of {label!r} in {where}")
        if not 0 <= spec.least < 1:
            raise HbcalError(f"The recipe's {where} have least = {spec.least:g}: it is a probability below 1.")
        for name, limits in spec.within.items():
            _ordered(limits, f"The filter within {name!r} of the {where}")
    if recipe.clip and recipe.clusters:
        raise HbcalError(
            f"The recipe clips at {recipe.clip:g} and has clusters: clipping cannot tell a wrong member from a wrong "
            "measurement; use crosscal_robust, or drop one of the two."
        )
    if recipe.program == "crosscal_structural" and recipe.clusters:
        raise HbcalError(
            f"The recipe has clusters ({some(sorted(recipe.clusters))}), which crosscal_structural does not know: its "
            "populations are those of surveys; use crosscal or crosscal_robust, or drop them."
        )


def _check_data(recipe: Recipe, entry: DataSpec) -> None:
    where = f"data entry for {entry.file!r}"
    refuse_unknown(entry.columns, ROLES[entry.layout], f"column of a {entry.layout} table", where)
    refuse_unknown(entry.covariates, recipe.covariates, "covariate", where)
    for measurement in entry.measurements:
        refuse_unknown((measurement.survey,), recipe.surveys, "survey", where)
        refuse_unknown((measurement.label,), recipe.labels, "label", where)
        if len(measurement.error) > 2:
            raise HbcalError(
                f"The {where} lists {len(measurement.error)} error columns for {measurement.value!r}: give one, two "
                "(lower, upper), or none."
            )
    for column in entry.covariates.values():
        refuse_unknown(filter(None, (column.survey,)), recipe.surveys, "survey", where)
    for name, limits in entry.within.items():
        _ordered(limits, f"The filter within {name!r} of the {where}")
    if (entry.layout == "wide") != bool(entry.measurements):
        what = "no measurements: add them" if entry.layout == "wide" else "measurements: only a wide one has them"
        raise HbcalError(f"The {where} is {entry.layout} but lists {what}.")


def _check_terms(recipe: Recipe) -> None:
    for kind, specs in (("trend", recipe.trend), ("floor", recipe.floor)):
        for spec in specs:
            refuse_unknown((*spec.covariates, *filter(None, (spec.per,))), recipe.covariates, "covariate", kind)
            refuse_unknown(spec.surveys, recipe.surveys, "survey", kind)
            refuse_unknown(spec.labels, recipe.labels, "label", kind)
            for name in spec.covariates:
                if recipe.covariates[name].levels:
                    raise HbcalError(f"The recipe's {kind} lists category {name!r} as a covariate: use per = {name!r}.")
            if spec.per and not recipe.covariates[spec.per].levels:
                raise HbcalError(f"The recipe's {kind} has per = {spec.per!r}, which has no levels: give it some.")
            if not spec.covariates and not spec.per:
                raise HbcalError(f"A {kind} of the recipe names neither covariates nor a category: give it one.")
    for trend in recipe.trend:
        _one_scale({"sd": trend.sd, "scale": trend.scale}, "A trend of the recipe", "sd and scale, in the label's unit")


def _check_structural(recipe: Recipe) -> None:
    """Trends in true labels belong to one program, and that program needs to know where the true labels are."""
    true = {name: spec.true for name, spec in recipe.covariates.items() if spec.true}
    if recipe.program != "crosscal_structural":
        if true:
            raise HbcalError(
                f"Covariate {some(true)} is a true label, but {recipe.program} takes covariates as observed: set "
                'program = "crosscal_structural", or use own or consensus.'
            )
        return
    for name, label in recipe.labels.items():
        if not any(name in survey.anchor for survey in recipe.surveys.values()):
            raise HbcalError(
                f"Label {name!r} has no anchor: without one the slopes of crosscal_structural run away; declare a "
                "survey its anchor, or use crosscal."
            )
        where = f"The population of label {name!r} is {list(label.population)}"
        if not (math.isfinite(label.population[0]) and 0 < label.population[1] < math.inf):
            raise HbcalError(f"{where}: crosscal_structural needs [centre, scale] in {label.unit}, scale positive.")
    for survey, said in recipe.surveys.items():
        kinds = [kind for kind in ("depends_on", "own_scale") if getattr(said, kind)]
        if kinds:
            raise HbcalError(f"Survey {survey!r} has {some(kinds)}, which crosscal_structural does not know: drop it.")
    for name, spec in recipe.covariates.items():
        kind = next((k for k in ("own", "consensus") if getattr(spec, k)), "")
        if kind or _is_measurement(recipe, name):
            raise HbcalError(
                f"Covariate {name!r} is {'a measurement' if not kind else kind + ' ' + repr(getattr(spec, kind))}: "
                "crosscal_structural describes how measurements come about and cannot condition on one; use true."
            )
    twice = [label for label in recipe.labels if list(true.values()).count(label) > 1]
    if twice:
        raise HbcalError(f"Two covariates are the true label {some(twice)}: keep one.")
    for floor in recipe.floor:
        _refuse_true(
            floor.covariates, true, "A floor of the recipe", "crosscal_structural needs floors in what is observed"
        )
    for trend in recipe.trend:
        if trend.basis != "polynomial" or trend.options.get("degree", 1) != 1 or "hold" in trend.options:
            _refuse_true(
                trend.covariates, true, "A trend of the recipe that is not linear",
                'crosscal_structural can only take basis = "polynomial" with degree = 1 and no hold there',
            )  # fmt: skip


def _refuse_true(covariates: Iterable[str], true: Mapping[str, str], where: str, why: str) -> None:
    for name in covariates:
        if name in true:
            raise HbcalError(f"{where} depends on {name!r}, the true {true[name]}: {why}.")


def _is_measurement(recipe: Recipe, covariate: str) -> bool:
    """Whether a covariate is read from a column that is a measurement too."""
    for entry in recipe.data:
        spec = entry.covariates.get(covariate)
        if spec is not None and any(spec.column == m.value for m in entry.measurements):
            return True
    return False


def _check_sampling(recipe: Recipe) -> None:
    _positive(recipe.priors.error_scale, "The recipe's prior error_scale")
    _positive(recipe.priors.floor_trend, "The recipe's prior floor_trend")
    if not 0 < recipe.priors.outlier_rate < 0.5:
        raise HbcalError(f"The recipe's prior outlier_rate is {recipe.priors.outlier_rate}: give a share, 0 to 0.5.")
    if recipe.clip and recipe.program not in ("crosscal", "crosscal_correlated"):
        raise HbcalError(f"The recipe clips at {recipe.clip:g}, but {recipe.program} keeps all measurements: drop it.")
    if not 0 <= recipe.clip < math.inf:
        raise HbcalError(f"The recipe's clip is {recipe.clip}: it must be 0 (off) or positive.")
    sampling = recipe.sampling
    for name, least in {"chains": 1, "warmup": 1, "draws": 4, "thin": 1, "chunk": 1, "max_tree_depth": 1}.items():
        value = getattr(sampling, name)
        if value < least:
            raise HbcalError(f"The recipe's sampling has {name} = {value}: it must be at least {least}.")
    if not 0 < sampling.target_accept < 1:
        raise HbcalError(f"The recipe's sampling has target_accept = {sampling.target_accept}: give 0 to 1.")


def _check_simulate(recipe: Recipe, spec: SimulateSpec) -> None:
    if spec.n_star < 2:
        raise HbcalError(f"The recipe's simulate has n_star = {spec.n_star}: a calibration needs at least 2.")
    refuse_unknown(spec.seen, recipe.surveys, "survey", "simulate key 'seen'")
    stars = [*recipe.covariates, *(f"z.{label}" for label in recipe.labels)]
    errors = [*recipe.labels, *(f"{survey}.{label}" for survey in recipe.surveys for label in recipe.labels)]
    declared: dict[str, tuple[Mapping[str, Any], list[str]]] = {
        "star_low": (spec.star_low, stars), "star_high": (spec.star_high, stars),
        "error_low": (spec.error_low, errors), "error_high": (spec.error_high, errors),
    }  # fmt: skip
    for key, (values, names) in declared.items():
        refuse_unknown(values, names, "name", f"simulate key {key!r}")
        for name, value in values.items() if key.startswith("error") else ():
            _positive(value, f"The recipe's simulate {key} of {name!r}")
    for key in ("n_cluster", "listed", "membership_low"):
        refuse_unknown(getattr(spec, key), recipe.clusters, "kind of clusters", f"simulate key {key!r}")
    for key in ("seen", "listed", "membership_low"):
        for name, share in getattr(spec, key).items():
            if not 0 <= share <= 1:
                raise HbcalError(f"The recipe's simulate {key} of {name!r} is {share}: it is a share from 0 to 1.")
    if sum(spec.listed.values()) > 1:
        raise HbcalError("The recipe's simulate lists more stars in clusters than there are: listed adds up to over 1.")
    for kind, n in spec.n_cluster.items():
        if n < 1:
            raise HbcalError(f"The recipe's simulate n_cluster of {kind!r} is {n}: it must be at least 1.")
