"""From a catalogue and a recipe to the arrays the program takes, and from its draws back to named quantities."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from hbcal._errors import HbcalError
from hbcal.blocks import Builder
from hbcal.catalogue.catalogue import Catalogue
from hbcal.catalogue.overlap import Overlap, overlap
from hbcal.clusters import cluster_quantities, join, usable_members
from hbcal.distributions.flat_stars import Block
from hbcal.groups import NO_GROUPS, Groups, overlap_groups, refuse_without_anchor, with_true_labels
from hbcal.programs.crosscal import Design
from hbcal.recipe import Recipe
from hbcal.terms import floor_terms, trend_terms
from hbcal.visits import refuse_apart


@dataclass(frozen=True)
class Prepared:
    """A catalogue made ready for `crosscal`.

    Attributes:
        recipe, catalogue: what it stems from; the catalogue without the rows that were left out.
        overlap: the overlap graph of the measurements.
        design: the program's argument.
        y: measurements per fitted label, as the program wants them.
        rows: per fitted label, catalogue row of each entry of y, -1 for none.
        expand: per fitted label, (survey, term) -> coefficients, (n_survey, n_term, n_coef).
        terms, floor_names: names of all trend terms (zero point first) and of all floor terms.
        error_scales, floors: (survey, label) of each sampled error scale and floor, in order.
        scales: name of each learnt prior sd.
        rates: (survey, label) of each outlier rate: of all measurements that may be outliers.
        alone: (survey, label) that dependent surveys report too, but no other voting survey that shares stars.
        groups: stars by the surveys that saw them, where the program describes populations.
        joined: the catalogue, and its clusters as pseudo-surveys behind; what `rows` refers to.
        means: label -> (cluster) -> coefficients, (n_cluster, n_coef).
    """

    recipe: Recipe
    catalogue: Catalogue
    overlap: Overlap
    design: Design
    y: tuple[np.ndarray, ...]
    rows: tuple[np.ndarray, ...]
    expand: tuple[np.ndarray, ...]
    terms: tuple[str, ...]
    floor_names: tuple[str, ...]
    error_scales: tuple[tuple[str, str], ...]
    floors: tuple[tuple[str, str], ...]
    scales: tuple[str, ...]
    rates: tuple[tuple[str, str], ...]
    alone: tuple[tuple[str, str], ...]
    groups: Groups
    joined: Catalogue
    means: dict[str, np.ndarray]


def anchors_of(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """Label -> surveys the recipe declares as anchors.

    Args:
        recipe: any.

    Returns:
        Survey names per label, in the recipe's order; dimensionless.

    Errors:
        None.

    Example:
        >>> from hbcal import load_recipe
        >>> anchors_of(load_recipe("kepler_giants"))
        {'logg': ('seismology',)}
    """
    return {name: tuple(s for s, spec in recipe.surveys.items() if name in spec.anchor) for name in recipe.labels}


def prepare(recipe: Recipe, catalogue: Catalogue) -> Prepared:
    """Check what the data can answer and build the design.

    Args:
        recipe: declares surveys, labels, trends, floors, priors.
        catalogue: as `hbcal.catalogue.observe.observe` gives it.

    Returns:
        `Prepared`; units are the recipe's.

    Errors:
        HbcalError for surveys that cannot be tied, a covariate that is missing or constant for every star, a label
        without stars, or without an anchor where the program needs one.

    Example:
        >>> prepared = prepare(tiny_run().recipe, tiny_sky().catalogue)
        >>> prepared.terms, prepared.floors
        (('offset', 'x1', 'x2'), (('s1', 'fe_h'), ('s2', 'fe_h')))
        >>> prepared.design.labels[0].blocks[0].phi.shape[1:]  # two surveys to calibrate, three terms
        (2, 3)
    """
    anchors = anchors_of(recipe)
    catalogue = usable_members(recipe, with_true_labels(recipe, _usable(recipe, catalogue, anchors)))
    known = {(s, l) for l, who in anchors.items() for s in who if not recipe.surveys[s].free}
    _refuse_own_scale(recipe, catalogue, voting(recipe, catalogue))
    joined, votes = with_clusters(recipe, catalogue)
    graph = overlap(joined.select(votes), anchors, known, tuple(recipe.clusters))
    groups = NO_GROUPS
    if recipe.program == "crosscal_structural":
        refuse_without_anchor(recipe, graph)
        groups = overlap_groups(recipe, catalogue, graph)
    builder = Builder(recipe, joined, graph, anchors, votes)
    built = [builder.label(label) for label in graph.fitted]
    tied = np.concatenate([where[where >= 0] for _, _, where, _ in built])
    refuse_apart(recipe, catalogue, tied[tied < len(catalogue.value)], graph.fitted)
    for survey in recipe.dependent:
        for label in catalogue.labels:
            names = trend_terms(recipe, survey, label, np.zeros((1, len(recipe.covariates)))).names
            builder.terms += [name for name in names if name not in builder.terms]
    n_floor_term = len(builder.floor_names)
    design = Design(
        labels=tuple(replace(b[0], blocks=tuple(_pad_floor(x, n_floor_term) for x in b[0].blocks)) for b in built),
        floor_unit=np.array([_floor_scale(recipe, survey, label) for survey, label in builder.floors]),
        scale_unit=np.array(list(builder.scales.values())),
        floor_place=_places(builder),
        n_error=len(builder.error_scales),
    )
    n_scale = len(builder.scales)
    labels = tuple(replace(x, learnt_sd=np.eye(n_scale + 1)[x.learnt_sd][:, :n_scale]) for x in design.labels)
    expand = tuple(_pad_terms(b[3], len(builder.terms)) for b in built)
    return Prepared(
        recipe, catalogue, graph, replace(design, labels=labels), tuple(b[1] for b in built),
        tuple(b[2] for b in built), expand, tuple(builder.terms), tuple(builder.floor_names),
        tuple(builder.error_scales), tuple(builder.floors), tuple(builder.scales),
        _rates(recipe, joined, [b[2] for b in built]), _alone(recipe, catalogue, graph), groups, joined, builder.means,
    )  # fmt: skip


def _floor_scale(recipe: Recipe, survey: str, label: str) -> float:
    """Prior scale of a survey's floor, or of the scatter within a kind of clusters."""
    kind = recipe.clusters.get(survey)
    return kind.spread[label] if kind else recipe.labels[label].floor_scale


def _alone(recipe: Recipe, cat: Catalogue, graph: Overlap) -> tuple[tuple[str, str], ...]:
    there = {(cat.surveys[s], cat.labels[l]) for s, l in {*zip(cat.survey.tolist(), cat.label.tolist(), strict=True)}}
    compiled = {label for survey, label in there if recipe.surveys[survey].depends_on}
    return tuple(
        (survey, label)
        for survey, label in sorted(there)
        if label in compiled
        and not recipe.surveys[survey].depends_on
        and (label in recipe.surveys[survey].own_scale or label in graph.single)
    )


def voting(recipe: Recipe, catalogue: Catalogue) -> np.ndarray:
    """Which measurements have a say in what is true: not those of dependent surveys, nor those on a scale of their own.

    Args:
        recipe, catalogue: of the fit.

    Returns:
        (n_measurement,) bool.

    Errors:
        None.

    Example:
        >>> bool(voting(tiny_run().recipe, tiny_sky().catalogue).all())
        True
    """
    table = np.array([[recipe.votes(s, l) for l in catalogue.labels] for s in catalogue.surveys])
    return table[catalogue.survey, catalogue.label]


def with_clusters(recipe: Recipe, catalogue: Catalogue) -> tuple[Catalogue, np.ndarray]:
    """The catalogue with its clusters as pseudo-surveys behind, and which of all those measurements have a say.

    Args:
        recipe, catalogue: of the fit.

    Returns:
        `Catalogue` as `hbcal.clusters.join` gives it; (n_measurement,) bool, True for those of clusters.

    Errors:
        None.

    Example:
        >>> joined, votes = with_clusters(tiny_clusters().recipe, tiny_clusters().catalogue)
        >>> joined.surveys, len(votes) == len(joined.value)
        (('s1', 'open'), True)
    """
    votes = voting(recipe, catalogue)
    joined = join(recipe, catalogue, votes)
    return joined, np.append(votes, np.ones(len(joined.value) - len(votes), bool))


def _refuse_own_scale(recipe: Recipe, cat: Catalogue, votes: np.ndarray) -> None:
    """A label on a survey's own scale must share no star with what votes."""
    for survey, spec in recipe.surveys.items():
        for label in spec.own_scale:
            here = cat.label == cat.labels.index(label)
            own = np.unique(cat.star[here & (cat.survey == cat.surveys.index(survey))])
            shared = int(np.isin(own, cat.star[here & votes]).sum())
            if shared:
                raise HbcalError(
                    f"The recipe gives {survey!r} its own scale of {label}, but it shares {shared} star(s) with voting "
                    "surveys: take the label out of own_scale."
                )


def _rates(recipe: Recipe, cat: Catalogue, fitted: list[np.ndarray]) -> tuple[tuple[str, str], ...]:
    """(survey, label) with a measurement in the fit that may be an outlier."""
    rows = np.concatenate(fitted)
    pairs = np.unique(np.stack([cat.survey[rows[rows >= 0]], cat.label[rows[rows >= 0]]], axis=1), axis=0)
    named = [(cat.surveys[s], cat.labels[l]) for s, l in pairs if cat.surveys[s] not in recipe.clusters]
    specs = recipe.surveys
    return tuple((s, l) for s, l in named if l not in specs[s].anchor or "outlier_rate" in specs[s].free)


def _usable(recipe: Recipe, catalogue: Catalogue, anchors: dict[str, tuple[str, ...]]) -> Catalogue:
    """Leave out rows whose covariates are missing, and anchors without an error; refuse useless covariates."""
    keep = np.ones(len(catalogue.value), bool)
    reasons: Counter[str] = Counter()
    for s, survey in enumerate(catalogue.surveys):
        for l, label in enumerate(catalogue.labels):
            at = np.flatnonzero((catalogue.survey == s) & (catalogue.label == l))
            if not at.size:
                continue
            if survey in anchors[label]:
                if "floor" not in recipe.surveys[survey].free:
                    bare = np.isnan(catalogue.error[at])
                    keep[at[bare]] = False
                    reasons[f"{label} of anchor {survey} has no error"] += int(bare.sum())
                continue
            x = catalogue.x[catalogue.star[at], s]
            keep[at] = _check_covariates(recipe, survey, label, x, reasons)
    out = replace(catalogue.select(keep), left_out={**catalogue.left_out, **{k: v for k, v in reasons.items() if v}})
    return out


def _check_covariates(recipe: Recipe, survey: str, label: str, x: np.ndarray, reasons: Counter[str]) -> np.ndarray:
    used = {
        c for terms in (trend_terms, floor_terms) for each in terms(recipe, survey, label, x).covariates for c in each
    }
    keep = np.ones(len(x), bool)
    for c, (name, spec) in enumerate(recipe.covariates.items()):
        if name not in used or spec.true:
            continue
        missing = np.isnan(x[:, c])
        unknown = (x[:, c] < 0) if spec.levels else np.zeros(len(x), bool)
        where = f"covariate {name!r} of survey {survey!r}"
        if (missing | unknown).all():
            why = "missing" if missing.any() else f"not one of {', '.join(spec.all_levels)}"
            raise HbcalError(
                f"The {where} is {why} for all {len(x)} stars with {label}: correct its column in the recipe."
            )
        if not spec.levels and np.ptp(x[~missing, c]) == 0 and len(x) > 1:
            raise HbcalError(
                f"The {where} is {x[~missing, c][0]:g} for all {int((~missing).sum())} stars with {label}: a trend in "
                "a constant cannot be told from the zero point; take it out of the recipe."
            )
        reasons[f"{name} of {survey} missing"] += int((keep & missing).sum())
        reasons[f"{name} of {survey} not a known level"] += int((keep & unknown).sum())
        keep &= ~(missing | unknown)
    return keep


def _places(builder: Builder) -> np.ndarray:
    """One-hot (n_floor, n_floor_term, n_gamma) of the terms that exist, floor after floor."""
    places = sorted(builder.floor_place)
    one_hot = np.zeros((len(builder.floors), len(builder.floor_names), len(places)))
    for k, (floor, term) in enumerate(places):
        one_hot[floor, term, k] = 1.0
    return one_hot


def _pad_floor(block: Block, n: int) -> Block:
    psi = np.zeros((*block.psi.shape[:2], n))
    psi[:, :, : block.psi.shape[2]] = block.psi
    return replace(block, psi=psi)


def _pad_terms(expand: np.ndarray, n: int) -> np.ndarray:
    out = np.zeros((expand.shape[0], n, expand.shape[2]))
    out[:, : expand.shape[1]] = expand
    return out


def named_quantities(prepared: Prepared, sites: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Turn the program's draws into offset, trend, error scale and floor by survey and label.

    Args:
        prepared: the design the draws stem from.
        sites: draws per site, each (n_chain, n_draw, ...).

    Returns:
        ``offset``, ``error_scale``, ``floor`` (n_chain, n_draw, n_survey, n_label), ``trend`` (..., n_term - 1),
        ``floor_trend`` (..., n_floor_term), ``prior_sd`` (n_chain, n_draw, n_scale), label units, and what else there
        is: ``outlier_rate`` (n_chain, n_draw, n_survey, n_label), and those of `hbcal.clusters.cluster_quantities`. NaN
        where a survey does not report a label or has no such term; an anchor has offset 0, error scale 1 and floor 0.

    Errors:
        KeyError when a site is missing.

    Example:
        >>> sites = {"coef_fe_h": np.arange(6.0), "error_scale": np.ones(2), "floor": np.ones(2)}
        >>> named = named_quantities(tiny_prepared(), {name: draw[None, None] for name, draw in sites.items()})
        >>> named["offset"][0, 0, :, 0].tolist()  # the anchor s0, then s1 and s2
        [0.0, 0.0, 1.0]
    """
    cat, graph = prepared.catalogue, prepared.overlap
    lead = next(iter(sites.values())).shape[:2]
    shape = (*lead, len(cat.surveys), len(cat.labels))
    n_term = len(prepared.terms)
    full = np.full((*shape, n_term), np.nan)
    scale, floor = np.full(shape, np.nan), np.full(shape, np.nan)
    gamma = np.full((*shape, len(prepared.floor_names)), np.nan)
    for i, label in enumerate(graph.fitted):
        l = cat.labels.index(label)
        drawn = np.einsum("stk,cdk->cdst", prepared.expand[i], sites[f"coef_{label}"])
        has = np.abs(prepared.expand[i]).sum(-1) > 0
        full[:, :, :, l] = np.where(has, drawn, np.nan)
        for survey in graph.anchored[label]:
            s = cat.surveys.index(survey)
            full[:, :, s, l], scale[:, :, s, l], floor[:, :, s, l] = 0.0, 1.0, 0.0
    for survey, label in prepared.alone:  # on a scale of its own: as reported
        s, l = cat.surveys.index(survey), cat.labels.index(label)
        full[:, :, s, l, 0], scale[:, :, s, l] = 0.0, 1.0
        floor[:, :, s, l] = 1e-3 * prepared.recipe.labels[label].floor_scale
    for j, (survey, label) in enumerate(prepared.error_scales):
        scale[:, :, cat.surveys.index(survey), cat.labels.index(label)] = sites["error_scale"][:, :, j]
    for j, (survey, label) in enumerate(prepared.floors):
        if survey in prepared.recipe.clusters:
            continue
        s, l = cat.surveys.index(survey), cat.labels.index(label)
        floor[:, :, s, l] = sites["floor"][:, :, j]
        place = np.asarray(prepared.design.floor_place[j])
        at = place.any(axis=1)
        if np.isnan(full[:, :, s, l, 0]).all():  # the only survey of a relative scale: its zero point is the scale's
            full[:, :, s, l, 0] = 0.0
        gamma[:, :, s, l, at] = sites.get("floor_trend", np.zeros((*lead, 0))) @ place[at].T
    out = {"offset": full[..., 0], "trend": full[..., 1:], "error_scale": scale, "floor": floor, "floor_trend": gamma}
    out["prior_sd"] = sites.get("prior_sd", np.zeros((*lead, 0)))
    if "outlier_rate" in sites:
        out["outlier_rate"] = np.full(shape, np.nan)
        for j, (survey, label) in enumerate(prepared.rates):
            out["outlier_rate"][..., cat.surveys.index(survey), cat.labels.index(label)] = sites["outlier_rate"][..., j]
    out |= cluster_quantities(prepared.recipe, cat, prepared.means, prepared.floors, sites)
    return out | _populations(prepared, sites) | _correlations(prepared, sites)


def _correlations(prepared: Prepared, sites: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Fitted correlation between the labels of each survey; NaN where none was fitted."""
    cat, surveys = prepared.catalogue, prepared.recipe.surveys
    drawn = {s: sites[f"corr_{s}"] for s in cat.surveys if surveys[s].correlated and f"corr_{s}" in sites}
    if not drawn:
        return {}
    n_label = len(cat.labels)
    out = np.full((*next(iter(drawn.values())).shape[:2], len(cat.surveys), n_label, n_label), np.nan)
    for survey, root in drawn.items():
        at = np.array([cat.labels.index(label) for label in surveys[survey].correlated])
        out[:, :, cat.surveys.index(survey), at[:, None], at] = root @ np.swapaxes(root, -1, -2)
    return {"correlation": out}


def _populations(prepared: Prepared, sites: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Mean, sd and correlation of the true labels of each group; NaN for labels that its stars have not."""
    if not prepared.groups.names:
        return {}
    n_label = len(prepared.catalogue.labels)
    at = [prepared.catalogue.labels.index(label) for label in prepared.overlap.fitted]
    mean, sd = sites["population_mean"], sites["population_sd"]
    one = np.ones((*mean.shape[:2], 1, 1))
    root = np.stack([sites.get(f"corr_{name}", one) for name in prepared.groups.names], axis=2)
    wide = np.full((*mean.shape[:3], n_label), np.nan)
    corr = np.full((*mean.shape[:3], n_label, n_label), np.nan)
    out = {"population_mean": wide, "population_sd": wide.copy(), "population_corr": corr}
    out["population_mean"][..., at], out["population_sd"][..., at] = mean, sd
    corr[..., np.array(at)[:, None], at] = root @ np.swapaxes(root, -1, -2)
    hidden = ~prepared.groups.measured
    for values in (out["population_mean"], out["population_sd"]):
        values[:, :, hidden] = np.nan
    corr[:, :, hidden[:, :, None] | hidden[:, None, :]] = np.nan
    return out
