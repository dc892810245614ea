"""From a catalogue and a recipe to the arrays the program takes, and from its draws back to named quantities."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from hbcal._errors import HbcalError
from hbcal.catalogue.catalogue import Catalogue
from hbcal.catalogue.overlap import Overlap, overlap
from hbcal.distributions.flat_stars import Block
from hbcal.numerics.gauge import zero_sum_basis
from hbcal.programs.crosscal import Design, Label
from hbcal.recipe import Recipe
from hbcal.terms import OFFSET, floor_terms, trend_terms


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
        without stars.

    Example:
        >>> prepared = prepare(tiny_run().recipe, tiny_sky().catalogue)
        >>> prepared.terms, prepared.floors
        (('offset', 'x1', 'x2'), (('s1', 'fe_h'), ('s2', 'fe_h')))
        >>> prepared.design.labels[0].blocks[0].phi.shape[1:]  # two surveys to calibrate, three terms
        (2, 3)
    """
    anchors = anchors_of(recipe)
    catalogue = _usable(recipe, catalogue, anchors)
    known = {(s, l) for l, who in anchors.items() for s in who if not recipe.surveys[s].free}
    graph = overlap(catalogue, anchors, known)
    builder = _Builder(recipe, catalogue, graph, anchors)
    built = [builder.label(label) for label in graph.fitted]
    n_floor_term = len(builder.floor_names)
    design = Design(
        labels=tuple(replace(b[0], blocks=tuple(_pad_floor(x, n_floor_term) for x in b[0].blocks)) for b in built),
        floor_unit=np.array([recipe.labels[l].floor_scale for _, l in builder.floors]),
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
    )  # fmt: skip


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
        if name not in used:
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


class _Builder:
    """Collects names while it builds label after label."""

    def __init__(self, recipe: Recipe, catalogue: Catalogue, graph: Overlap, anchors: dict[str, tuple[str, ...]]):
        self.recipe, self.catalogue, self.graph, self.anchors = recipe, catalogue, graph, anchors
        self.terms, self.floor_names = [OFFSET], list[str]()
        self.error_scales, self.floors = list[tuple[str, str]](), list[tuple[str, str]]()
        self.floor_place: set[tuple[int, int]] = set()  # (floor, term) pairs that exist
        self.scales: dict[str, float] = {}

    def label(self, label: str) -> tuple[Label, np.ndarray, np.ndarray, np.ndarray]:
        cat, recipe = self.catalogue, self.recipe
        rows = np.flatnonzero(cat.label == cat.labels.index(label))
        rows = rows[
            np.bincount(cat.star[rows], minlength=cat.n_star)[cat.star[rows]] > 1
        ]  # one measurement ties nothing
        order = np.lexsort((cat.survey[rows], cat.star[rows]))
        rows = rows[order]
        anchors = {cat.surveys.index(s) for s in self.anchors[label]}
        present = [s for s in range(len(cat.surveys)) if (cat.survey[rows] == s).any()]
        free = [s for s in present if s not in anchors]
        visit = _visits(cat.star[rows], cat.survey[rows])
        slots = [
            (s, v)
            for s in free + [s for s in present if s in anchors]
            for v in range(visit[cat.survey[rows] == s].max() + 1)
        ]
        n_free = sum(s in free for s, _ in slots)

        stars, position = np.unique(cat.star[rows], return_inverse=True)
        table = np.full((len(stars), len(slots)), -1)
        slot_of = {slot: j for j, slot in enumerate(slots)}
        table[position, [slot_of[s, v] for s, v in zip(cat.survey[rows], visit, strict=True)]] = rows

        per = {s: trend_terms(recipe, cat.surveys[s], label, cat.x[stars, s]) for s in free}
        local = list(dict.fromkeys(name for t in per.values() for name in t.names))
        self.terms += [name for name in local if name not in self.terms]
        coefficient, weight, group = self._coefficients(label, free, per)
        n_coef = len(weight)
        expand = np.zeros((len(cat.surveys), len(self.terms), n_coef))
        for (s, name), row in coefficient.items():
            expand[s, self.terms.index(name)] = row

        fixed, learnt = self._scales(label, group)
        blocks, values, where = [], [], []
        for mask, keep_terms in self._strata(local, per, cat.x[stars][:, free[0]] if free else cat.x[stars, 0]):
            block = self._block(label, stars[mask], table[mask], slots, n_free, keep_terms, coefficient, n_coef)
            blocks.append(block)
            at = table[mask]
            values.append(np.where(at >= 0, cat.value[at], 0.0).ravel())
            where.append(at.ravel())
        out = Label(tuple(blocks), np.asarray(weight), fixed, learnt, label)
        return out, np.concatenate(values), np.concatenate(where), expand

    def _coefficients(self, label, free, per):
        """Free coefficients: one per (survey, term), or a zero-sum basis over the surveys where the gauge asks."""
        coefficient, weight, group = {}, [], []
        blocks = []
        star_level = dict(zip(self.catalogue.covariates, self.catalogue.star_level, strict=True))
        names = list(dict.fromkeys(name for s in free for name in per[s].names))
        for name in names:
            who = [s for s in free if name in per[s].names]
            k = per[who[0]].names.index(name)
            of_star = all(star_level[c] for c in per[who[0]].covariates[k])
            tied = not self.graph.anchored[label] and of_star and len(who) == len(free)
            basis = zero_sum_basis(len(who)) if tied else np.eye(len(who))
            blocks.append((name, who, basis))
            weight += [per[who[0]].weights[k]] * basis.shape[1]
            group += [per[who[0]].groups[k]] * basis.shape[1]
        start = 0
        for name, who, basis in blocks:
            for s, row in zip(who, basis, strict=True):
                full = np.zeros(len(weight))
                full[start : start + basis.shape[1]] = row
                coefficient[s, name] = full
            start += basis.shape[1]
        return coefficient, np.asarray(weight, float), group

    def _scales(self, label: str, group: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Fixed prior sd, and index of the learnt one (the last index means none), of each coefficient."""
        spec = self.recipe.labels[label]
        fixed, learnt = np.zeros(len(group)), np.full(len(group), -1)
        for j, name in enumerate(group):
            trend = None if name == OFFSET else self.recipe.trend[int(name.removeprefix("trend"))]
            sd, scale = (spec.offset_sd, spec.offset_scale) if trend is None else (trend.sd, trend.scale)
            fixed[j] = sd
            if scale > 0:
                self.scales.setdefault(f"{name}.{label}", scale)
                learnt[j] = list(self.scales).index(f"{name}.{label}")
        return fixed, learnt

    def _strata(self, local, per, x):
        """Stars by category, with the terms that are not zero there: small dense blocks instead of a sparse matrix."""
        levels = {name: lv for t in per.values() for name, lv in zip(t.names, t.levels, strict=True)}
        star_level = dict(zip(self.catalogue.covariates, self.catalogue.star_level, strict=True))
        categories = list(dict.fromkeys(lv[0] for lv in levels.values() if lv and star_level[lv[0]]))
        if not categories:
            return [(np.ones(len(x), bool), local)]
        code = np.stack([x[:, self.catalogue.covariates.index(c)] for c in categories], axis=1)
        out = []
        for combination in np.unique(code[~np.isnan(code).any(1)], axis=0):
            here = {
                (c, self.recipe.covariates[c].all_levels[int(k)]) for c, k in zip(categories, combination, strict=True)
            }
            keep = [n for n in local if (lv := levels[n]) is None or lv[0] not in categories or lv in here]
            out.append(((code == combination).all(1), keep))
        lost = np.isnan(code).any(1)  # stars whose free surveys are all missing: they constrain noise only
        return out + ([(lost, [])] if lost.any() else [])

    def _block(self, label, stars, table, slots, n_free, keep_terms, coefficient, n_coef):
        cat = self.catalogue
        seen = table >= 0
        error = np.where(seen, cat.error[table], np.nan)
        phi = np.zeros((len(stars), n_free, len(keep_terms)))
        spread = np.zeros((n_free, len(keep_terms), n_coef))
        psi = np.zeros((len(stars), len(slots), 0))
        scale_of, floor_of = [], []
        for j, (s, _) in enumerate(slots):
            survey, spec = cat.surveys[s], self.recipe.surveys[cat.surveys[s]]
            is_anchor = survey in self.anchors[label]
            x = cat.x[stars, s]
            if j < n_free:
                terms = trend_terms(self.recipe, survey, label, x)
                for k, name in enumerate(keep_terms):
                    if name in terms.names:
                        phi[:, j, k] = np.where(seen[:, j], terms.values[:, terms.names.index(name)], 0.0)
                        spread[j, k] = coefficient[s, name]
            all_errors = cat.error[(cat.survey == s) & (cat.label == cat.labels.index(label))]
            scaled = np.isfinite(all_errors).any() and (not is_anchor or "error_scale" in spec.free)
            scale_of.append(_index(self.error_scales, (survey, label)) if scaled else -1)
            floored = not is_anchor or "floor" in spec.free
            floor_of.append(_index(self.floors, (survey, label)) if floored else -1)
            if floored and not is_anchor:
                floor = floor_terms(self.recipe, survey, label, x)
                for k, name in enumerate(floor.names):
                    i = _index(self.floor_names, name)
                    psi = np.concatenate([psi, np.zeros((*psi.shape[:2], max(0, i + 1 - psi.shape[2])))], axis=2)
                    self.floor_place.add((floor_of[-1], i))
                    psi[:, j, i] = np.where(seen[:, j], floor.values[:, k], 0.0)
        return Block(
            seen, phi, spread.reshape(-1, n_coef), np.where(np.isfinite(error), error, 0.0) ** 2, psi,
            tuple(scale_of), tuple(floor_of), label,
        )  # fmt: skip


def _index(names: list, name) -> int:
    if name not in names:
        names.append(name)
    return names.index(name)


def _visits(star: np.ndarray, survey: np.ndarray) -> np.ndarray:
    """Number of the visit of each row, rows sorted by (star, survey)."""
    new = np.ones(len(star), bool)
    new[1:] = (star[1:] != star[:-1]) | (survey[1:] != survey[:-1])
    start = np.maximum.accumulate(np.where(new, np.arange(len(star)), 0))
    return np.arange(len(star)) - start


def _places(builder: _Builder) -> np.ndarray:
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
        ``floor_trend`` (..., n_floor_term), ``prior_sd`` (n_chain, n_draw, n_scale), label units. NaN where a survey
        does not report a label or has no such term; an anchor has offset 0, error scale 1 and floor 0.

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
    for j, (survey, label) in enumerate(prepared.error_scales):
        scale[:, :, cat.surveys.index(survey), cat.labels.index(label)] = sites["error_scale"][:, :, j]
    for j, (survey, label) in enumerate(prepared.floors):
        s, l = cat.surveys.index(survey), cat.labels.index(label)
        floor[:, :, s, l] = sites["floor"][:, :, j]
        place = np.asarray(prepared.design.floor_place[j])
        at = place.any(axis=1)
        gamma[:, :, s, l, at] = sites.get("floor_trend", np.zeros((*lead, 0))) @ place[at].T
    out = {"offset": full[..., 0], "trend": full[..., 1:], "error_scale": scale, "floor": floor, "floor_trend": gamma}
    out["prior_sd"] = sites.get("prior_sd", np.zeros((*lead, 0)))
    return out
