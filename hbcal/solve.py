"""The true labels of a star whose measurements depend on them: a small linear system per draw."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import xarray as xr

from hbcal.catalogue.catalogue import Catalogue
from hbcal.draws import Draws, label_draws
from hbcal.groups import depends_on_true
from hbcal.mixture import Mixture
from hbcal.recipe import Recipe
from hbcal.terms import true_reference

LEAST_SD = 1e-6  # of a measurement without any noise, in units of its label's floor_scale


@dataclass(frozen=True)
class Measured:
    """Measurements of one survey and label.

    Attributes:
        draws: of its calibration.
        star: number of the star of each, (n,).
        value, error: label unit; error NaN where there is none.
        x: covariates, (n, n_covariate).
    """

    draws: Draws
    star: np.ndarray
    value: np.ndarray
    error: np.ndarray
    x: np.ndarray

    def rows(self, which: np.ndarray) -> Measured:
        """Some of them."""
        return Measured(self.draws, self.star[which], self.value[which], self.error[which], self.x[which])


@dataclass(frozen=True)
class Solved:
    """True labels of some stars, one Gaussian per draw.

    Attributes:
        mean: (n_star, n_draw, n_label), label units; NaN for a label that nothing tells.
        covariance: (n_star, n_draw, n_label, n_label).
        count: measurements that tell each label, (n_star, n_label).
    """

    mean: np.ndarray
    covariance: np.ndarray
    count: np.ndarray

    def rows(self, which: np.ndarray) -> Solved:
        """Some of the stars, perhaps more than once."""
        return Solved(self.mean[which], self.covariance[which], self.count[which])

    def label(self, l: int) -> Mixture:
        """Posterior of one true label."""
        return Mixture.of_draws(self.mean[:, :, l], np.sqrt(self.covariance[:, :, l, l]))

    def reported(self, d: Draws, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What a survey would report without noise, and its sd, each (n_star, n_draw)."""
        constant, response = _response(d, x)
        at = _needs(d)
        z, covariance, response = self.mean[:, :, at], self.covariance[:, :, at][..., at], response[:, :, at]
        mean = constant + (response * z).sum(2)
        return mean, np.sqrt(np.einsum("idk,idkl,idl->id", response, covariance, response))


def _needs(d: Draws) -> list[int]:
    """Labels that a survey's report depends on."""
    names = list(d.recipe.labels)
    return [names.index(name) for name in dict.fromkeys((d.label, *depends_on_true(d.recipe, d.survey, d.label)))]


def _response(d: Draws, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """c (n, n_draw) and b (n, n_draw, n_label) of a report y = c + b . z + noise."""
    slopes = np.moveaxis(d.slopes(x), 1, 2)
    constant = d.shift(x) - slopes @ true_reference(d.recipe)
    return constant, slopes + np.eye(len(d.recipe.labels))[list(d.recipe.labels).index(d.label)]


def beside(recipe: Recipe, posterior: xr.Dataset, label: str) -> tuple[Draws, ...]:
    """Draws of every survey's other labels, where a program lets a label depend on them.

    Args:
        recipe, posterior: of the run.
        label: the one that is left out.

    Returns:
        `Draws`; none where a label is calibrated on its own.

    Errors:
        None.

    Example:
        >>> beside(tiny_run().recipe, tiny_run().posterior, "fe_h")
        ()
    """
    if recipe.program != "crosscal_structural":
        return ()
    return tuple(d for l in recipe.labels if l != label for d in label_draws(recipe, posterior, l).values())


def measured_by(catalogue: Catalogue, drawn: Iterable[Draws], star: np.ndarray) -> list[Measured]:
    """The measurements of some stars, numbered in the order of the stars.

    Args:
        catalogue: of the run.
        drawn: whose measurements.
        star: star numbers, (n,), each once.

    Returns:
        `Measured`, one per survey and label.

    Errors:
        ValueError for names the catalogue does not have.

    Example:
        >>> from hbcal.draws import draws_of
        >>> run = tiny_run()
        >>> d = draws_of(run.recipe, run.posterior, "s1", "fe_h")
        >>> [one] = measured_by(run.catalogue, [d], run.catalogue.star[run.catalogue.survey == 1][:4])
        >>> one.star.tolist()
        [0, 1, 2, 3]
    """
    number = np.full(catalogue.n_star, -1)
    number[star] = np.arange(len(star))
    found = []
    for d in drawn:
        s, l = catalogue.surveys.index(d.survey), catalogue.labels.index(d.label)
        rows = np.flatnonzero((catalogue.survey == s) & (catalogue.label == l) & (number[catalogue.star] >= 0))
        i = catalogue.star[rows]
        found.append(Measured(d, number[i], catalogue.value[rows], catalogue.error[rows], catalogue.x[i, s]))
    return found


def solve_stars(catalogue: Catalogue, drawn: Iterable[Draws], star: np.ndarray) -> Solved:
    """Solve for the true labels of stars of the catalogue from its measurements, see `solve`.

    Args:
        catalogue: of the run.
        drawn: whose measurements.
        star: star numbers, (n,), in any order, perhaps more than once.

    Returns:
        `Solved`, one entry per number given.

    Errors:
        IndexError for no draws.

    Example:
        >>> from hbcal.draws import draws_of
        >>> run = tiny_run()
        >>> d = draws_of(run.recipe, run.posterior, "s1", "fe_h")
        >>> solve_stars(run.catalogue, [d], np.array([3, 1, 3])).count[:, 0].tolist()
        [1, 1, 1]
    """
    stars, position = np.unique(star, return_inverse=True)
    return solve(measured_by(catalogue, drawn, stars), len(stars)).rows(position)


def solve(measured: list[Measured], n_star: int) -> Solved:
    """Solve for the true labels of stars, draw by draw, with a flat prior.

        Lambda = sum_j b_j b_j^T / V_j,    z ~ N(Lambda^-1 sum_j b_j (y_j - c_j) / V_j, Lambda^-1)

    The populations of the fit belong to its stars and are not used. A measurement that depends on a label of which
    the star has none is left aside. Of one survey's reports alone this is z = (I + beta J)^-1 (y - d).

    Args:
        measured: the measurements, label units; at least one entry.
        n_star: number of stars.

    Returns:
        `Solved`, label units.

    Errors:
        IndexError for no entry.

    Example:
        >>> from hbcal.draws import draws_of
        >>> run = tiny_run()
        >>> d = draws_of(run.recipe, run.posterior, "s0", "fe_h")  # the anchor: z is what it reports
        >>> one = Measured(d, np.zeros(1, int), np.array([0.3]), np.array([0.1]), np.zeros((1, 2)))
        >>> solved = solve([one], 1)
        >>> solved.mean[0, 0].round(6).tolist(), solved.covariance[0, 0].round(6).tolist()
        ([0.3], [[0.01]])
    """
    recipe, n_draw = measured[0].draws.recipe, len(measured[0].draws.error_scale)
    n_label = len(recipe.labels)
    count = _count(measured, n_star, n_label)
    while True:  # a measurement that goes may be the one that another needs
        measured = [m.rows((count[m.star][:, _needs(m.draws)] > 0).all(1)) for m in measured]
        left = _count(measured, n_star, n_label)
        if (left == count).all():
            break
        count = left
    precision = np.zeros((n_star, n_draw, n_label, n_label))
    linear = np.zeros((n_star, n_draw, n_label))
    for m in measured:
        constant, response = _response(m.draws, m.x)
        least = LEAST_SD * recipe.labels[m.draws.label].floor_scale
        weight = 1.0 / np.maximum(m.draws.noise(m.x, m.error), least) ** 2
        weighted = weight[..., None] * response
        left_rows = np.arange(len(m.star))
        while len(left_rows):  # each star once; its other visits in the next round
            star, first = np.unique(m.star[left_rows], return_index=True)
            at = left_rows[first]
            precision[star] += weighted[at][..., :, None] * response[at][..., None, :]
            linear[star] += weighted[at] * (m.value[at, None] - constant[at])[..., None]
            left_rows = np.delete(left_rows, first)
    untold = count == 0
    precision += (untold[:, :, None] * np.eye(n_label))[:, None]
    covariance = np.linalg.inv(precision)
    mean = np.einsum("idkl,idl->idk", covariance, linear)
    mean[np.broadcast_to(untold[:, None], mean.shape)] = np.nan
    covariance[np.broadcast_to((untold[:, :, None] | untold[:, None])[:, None], covariance.shape)] = np.nan
    return Solved(mean, covariance, count)


def _count(measured: list[Measured], n_star: int, n_label: int) -> np.ndarray:
    count = np.zeros((n_star, n_label), int)
    for m in measured:
        np.add.at(count[:, list(m.draws.recipe.labels).index(m.draws.label)], m.star, 1)
    return count
