"""The catalogue: who measured what, as plain arrays. What every reader makes and every job takes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


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

    @property
    def n_star(self) -> int:
        """Number of stars."""
        return len(self.stars)

    def select(self, keep: np.ndarray, reason: str = "") -> Catalogue:
        """The catalogue with only some measurements; the others are counted under `reason`."""
        from dataclasses import replace

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
        )

    def digest(self) -> str:
        """SHA-256 of everything a fit depends on."""
        h = hashlib.sha256()
        for names in (self.stars, self.surveys, self.labels, self.covariates):
            h.update("\x1f".join(map(str, names)).encode())
        for array in (self.star, self.survey, self.label, self.value, self.error, self.x):
            h.update(np.ascontiguousarray(array).tobytes())
        return h.hexdigest()
