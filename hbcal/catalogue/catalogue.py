"""The catalogue: who measured what, as plain arrays. What every reader makes and every job takes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np


@dataclass(frozen=True)
class Members:
    """Who is in which star cluster; a star is in one at most.

    Attributes:
        names: of the clusters.
        kinds: of each cluster, as the recipe names it.
        cluster: cluster of each star, (n_star,), -1 for none.
        probability: that the star is a member, (n_star,), NaN for none.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    cluster: np.ndarray
    probability: np.ndarray

    def of_kind(self, kind: str) -> np.ndarray:
        """Which stars are listed in a cluster of that kind, (n_star,) bool."""
        return np.append(np.array(self.kinds) == kind, False)[self.cluster]

    def without(self, stars: np.ndarray) -> Members:
        """The same with some stars out of their clusters. stars: (n_star,) bool."""
        return replace(
            self, cluster=np.where(stars, -1, self.cluster), probability=np.where(stars, np.nan, self.probability)
        )

    def occupied(self) -> Members:
        """The same without clusters that have no member."""
        keep, number = np.unique(self.cluster[self.cluster >= 0], return_inverse=True)
        cluster = self.cluster.copy()
        cluster[cluster >= 0] = number
        names, kinds = (tuple(x[g] for g in keep) for x in (self.names, self.kinds))
        return replace(self, names=names, kinds=kinds, cluster=cluster)


@dataclass(frozen=True)
class Catalogue:
    """Measurements of stars by surveys, and the covariates observed with them.

    Attributes:
        stars: star ids, (n_star,) str, in order of first appearance.
        surveys, labels, covariates: names, in the recipe's order.
        star, survey, label: index of each measurement, (n_measurement,).
        value, error: in the label's unit; error NaN where the survey gives none.
        x: covariates as observed, (n_star, n_survey, n_covariate); NaN where missing; categories as level numbers.
        star_level: which covariates are a property of the star alone, (n_covariate,).
        left_out: rows left out, by reason.
        sources: name, rows and SHA-256 of each file.
        members: of star clusters; None where the recipe names none.
        visit: which of a survey's rows for a star each measurement comes from, (n_measurement,); None where a star's
            measurements of a label are numbered in order.
        correlation: of each measurement's error with that of every label in the same visit, (n_measurement, n_label),
            NaN where it is not given; None where it is given nowhere.
    """

    stars: np.ndarray
    surveys: tuple[str, ...]
    labels: tuple[str, ...]
    covariates: tuple[str, ...]
    star: np.ndarray
    survey: np.ndarray
    label: np.ndarray
    value: np.ndarray
    error: np.ndarray
    x: np.ndarray
    star_level: np.ndarray
    left_out: Mapping[str, int] = field(default_factory=dict)
    sources: tuple[Mapping[str, object], ...] = ()
    members: Members | None = None
    visit: np.ndarray | None = None
    correlation: np.ndarray | None = None

    @property
    def n_star(self) -> int:
        """Number of stars."""
        return len(self.stars)

    def select(self, keep: np.ndarray, reason: str = "") -> Catalogue:
        """The catalogue with only some measurements; the others are counted under `reason`."""
        dropped = int((~keep).sum())
        left_out = dict(self.left_out)
        if reason and dropped:
            left_out[reason] = left_out.get(reason, 0) + dropped
        return replace(
            self,
            star=self.star[keep],
            survey=self.survey[keep],
            label=self.label[keep],
            value=self.value[keep],
            error=self.error[keep],
            left_out=left_out,
            visit=None if self.visit is None else self.visit[keep],
            correlation=None if self.correlation is None else self.correlation[keep],
        )

    def digest(self) -> str:
        """SHA-256 of everything a fit depends on."""
        h = hashlib.sha256()
        for names in (self.stars, self.surveys, self.labels, self.covariates):
            h.update("\x1f".join(map(str, names)).encode())
        for array in (self.star, self.survey, self.label, self.value, self.error, self.x, self.visit, self.correlation):
            if array is not None:
                h.update(np.ascontiguousarray(array).tobytes())
        if self.members is not None:
            h.update("\x1f".join((*self.members.names, *self.members.kinds)).encode())
            for array in (self.members.cluster, self.members.probability):
                h.update(np.ascontiguousarray(array).tobytes())
        return h.hexdigest()
