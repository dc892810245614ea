"""Builds a label's blocks of stars: slots, design rows, gauge, prior scales, categories."""

from __future__ import annotations

import numpy as np

from hbcal.catalogue.catalogue import Catalogue
from hbcal.catalogue.overlap import Overlap
from hbcal.clusters import MEAN, MEAN_SD, mean_name, mean_terms
from hbcal.distributions.flat_stars import Block
from hbcal.numerics.gauge import zero_sum_basis
from hbcal.programs.crosscal import Label
from hbcal.recipe import Recipe
from hbcal.terms import OFFSET, Terms, floor_terms, trend_terms
from hbcal.visits import numbered


class Builder:
    """Collects names while it builds label after label.

    Args:
        recipe, catalogue: of the fit; the catalogue without the rows that were left out, joined with its clusters.
        graph: its overlap graph.
        anchors: label -> anchors.
        votes: which measurements enter the fit, (n_measurement,).
    """

    def __init__(
        self, recipe: Recipe, catalogue: Catalogue, graph: Overlap, anchors: dict[str, tuple[str, ...]],
        votes: np.ndarray,
    ):  # fmt: skip
        self.recipe, self.catalogue, self.graph, self.anchors, self.votes = recipe, catalogue, graph, anchors, votes
        self.terms, self.floor_names = [OFFSET], list[str]()
        self.error_scales, self.floors = list[tuple[str, str]](), list[tuple[str, str]]()
        self.floor_place: set[tuple[int, int]] = set()  # (floor, term) pairs that exist
        self.scales: dict[str, float] = {}
        self.means: dict[str, np.ndarray] = {}  # label -> (cluster) -> coefficients

    def label(self, label: str) -> tuple[Label, np.ndarray, np.ndarray, np.ndarray]:
        """The label's design, its measurements, their catalogue rows, and (survey, term) -> coefficients."""
        cat, recipe = self.catalogue, self.recipe
        rows = np.flatnonzero((cat.label == cat.labels.index(label)) & self.votes)
        seen = np.bincount(cat.star[rows], minlength=cat.n_star)
        rows = rows[seen[cat.star[rows]] > 1]  # one measurement ties nothing
        stars = np.unique(cat.star[rows])
        slots, n_free, table = self.layout(label, rows, stars)
        free = list(dict.fromkeys(s for s, _ in slots[:n_free]))
        per = {s: self._terms(s, label, stars) for s in free}
        local = list(dict.fromkeys(name for s in free if not self._is_kind(s) for name in per[s].names))
        means = [name for s in free if self._is_kind(s) for name in per[s].names]
        self.terms += [name for name in local if name not in self.terms]
        coefficient, weight, group = self._coefficients(label, free, per)
        n_coef = len(weight)
        expand = np.zeros((len(cat.surveys) - len(recipe.clusters), len(self.terms), n_coef))
        for (s, name), row in coefficient.items():
            if name not in means:
                expand[s, self.terms.index(name)] = row
        if means:
            self._means(label, {name: row for (_, name), row in coefficient.items()}, n_coef)

        fixed, learnt = self._scales(label, group)
        blocks, values, where = [], [], []
        strata = self._strata(local, per, cat.x[stars][:, free[0]] if free else cat.x[stars, 0])
        inside = (table[:, [self._is_kind(s) for s, _ in slots]] >= 0).any(1)
        field = [(mask & ~inside, keep) for mask, keep in strata]
        for mask, keep_terms in field + [(mask & inside, keep + means) for mask, keep in strata]:
            if not mask.any():
                continue
            block = self.block(label, stars[mask], table[mask], slots, n_free, keep_terms, coefficient, n_coef)
            blocks.append(block)
            at = table[mask]
            values.append(np.where(at >= 0, cat.value[at], 0.0).ravel())
            where.append(at.ravel())
        out = Label(tuple(blocks), np.asarray(weight), fixed, learnt, label)
        return out, np.concatenate(values), np.concatenate(where), expand

    def layout(self, label: str, rows: np.ndarray, stars: np.ndarray) -> tuple[list[tuple[int, int]], int, np.ndarray]:
        """Slots (survey, visit), calibrated surveys first; how many are theirs; each star's catalogue rows, or -1."""
        cat = self.catalogue
        rows = rows[np.lexsort((cat.survey[rows], cat.star[rows]))]
        anchors = {cat.surveys.index(s) for s in self.anchors[label]}
        present = [s for s in range(len(cat.surveys)) if (cat.survey[rows] == s).any()]
        free = [s for s in present if s not in anchors]
        visit = numbered(cat.star[rows], cat.survey[rows])
        slots = [
            (s, v)
            for s in free + [s for s in present if s in anchors]
            for v in range(visit[cat.survey[rows] == s].max() + 1)
        ]
        table = np.full((len(stars), len(slots)), -1)
        slot_of = {slot: j for j, slot in enumerate(slots)}
        at = [slot_of[s, v] for s, v in zip(cat.survey[rows], visit, strict=True)]
        table[np.searchsorted(stars, cat.star[rows]), at] = rows
        return slots, sum(s in free for s, _ in slots), table

    def _is_kind(self, s: int) -> bool:
        return self.catalogue.surveys[s] in self.recipe.clusters

    def _terms(self, s: int, label: str, stars: np.ndarray) -> Terms:
        """Columns of a survey, or of a kind of clusters, for some stars."""
        survey = self.catalogue.surveys[s]
        if self._is_kind(s):
            return mean_terms(self.catalogue, survey, label, stars)
        return trend_terms(self.recipe, survey, label, self.catalogue.x[stars, s])

    def _means(self, label: str, row_of: dict[str, np.ndarray], n_coef: int) -> None:
        assert self.catalogue.members is not None
        names = self.catalogue.members.names
        self.means[label] = np.zeros((len(names), n_coef))
        for g in range(len(names)):
            if (name := mean_name(self.catalogue, g)) in row_of:
                self.means[label][g] = row_of[name]

    def _coefficients(self, label, free, per):
        """Free coefficients: one per (survey, term), or a zero-sum basis over the surveys where the gauge asks.

        A trend that all surveys share is a trend of the true label; clusters know better, so there only zero points
        need the gauge.
        """
        coefficient, weight, group = {}, [], []
        blocks = []
        star_level = dict(zip(self.catalogue.covariates, self.catalogue.star_level, strict=True))
        names = list(dict.fromkeys(name for s in free for name in per[s].names))
        n_real = sum(not self._is_kind(s) for s in free)
        for name in names:
            who = [s for s in free if name in per[s].names]
            k = per[who[0]].names.index(name)
            of_star = all(star_level[c] for c in per[who[0]].covariates[k])
            tied = not self.graph.anchored[label] and of_star and len(who) == n_real and not self._is_kind(who[0])
            tied &= name == OFFSET or n_real == len(free)
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
            if name == MEAN:
                sd, scale = MEAN_SD, 0.0
            elif name == OFFSET:
                sd, scale = spec.offset_sd, spec.offset_scale
            else:
                trend = self.recipe.trend[int(name.removeprefix("trend"))]
                sd, scale = trend.sd, trend.scale
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

    def block(self, label, stars, table, slots, n_free, keep_terms, coefficient, n_coef) -> Block:
        """Some stars of a label, as `layout` lays them out, with some of its terms."""
        cat = self.catalogue
        seen = table >= 0
        error = np.where(seen, cat.error[table], np.nan)
        phi = np.zeros((len(stars), n_free, len(keep_terms)))
        spread = np.zeros((n_free, len(keep_terms), n_coef))
        psi = np.zeros((len(stars), len(slots), len(self.floor_names)))
        scale_of, floor_of = [], []
        for j, (s, _) in enumerate(slots):
            survey = cat.surveys[s]
            freed = () if self._is_kind(s) else self.recipe.surveys[survey].free
            is_anchor = survey in self.anchors[label]
            if j < n_free:
                terms = self._terms(s, label, stars)
                for k, name in enumerate(keep_terms):
                    if name in terms.names:
                        phi[:, j, k] = np.where(seen[:, j], terms.values[:, terms.names.index(name)], 0.0)
                        spread[j, k] = coefficient[s, name]
            all_errors = cat.error[(cat.survey == s) & (cat.label == cat.labels.index(label))]
            scaled = np.isfinite(all_errors).any() and (not is_anchor or "error_scale" in freed)
            scale_of.append(_index(self.error_scales, (survey, label)) if scaled else -1)
            floored = not is_anchor or "floor" in freed
            floor_of.append(_index(self.floors, (survey, label)) if floored else -1)
            if floored and not is_anchor and not self._is_kind(s):
                floor = floor_terms(self.recipe, survey, label, cat.x[stars, s])
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
