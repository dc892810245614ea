"""Which stars `crosscal_structural` describes with one population: those that the same surveys saw."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from hbcal._errors import HbcalError, some
from hbcal.catalogue.catalogue import Catalogue
from hbcal.catalogue.overlap import Overlap
from hbcal.recipe import Recipe
from hbcal.terms import true_slopes

LEAST = 20  # stars that have a population of their own
POOL = "few"


@dataclass(frozen=True)
class Groups:
    """Stars sorted by the surveys that saw them.

    Attributes:
        names: of the groups, such as "apogee+galah"; none for a program without populations.
        of_star: group of each star, (n_star,), -1 for stars that tie no surveys.
        rows: catalogue rows that enter the fit, (n_row,).
        measured: labels that a group's stars have measurements of, (n_group, n_label).
    """

    names: tuple[str, ...]
    of_star: np.ndarray
    rows: np.ndarray
    measured: np.ndarray


NO_GROUPS = Groups((), np.zeros(0, int), np.zeros(0, int), np.zeros((0, 0), bool))


def depends_on_true(recipe: Recipe, survey: str, label: str) -> tuple[str, ...]:
    """True labels that a survey's report of a label depends on, beside that label itself.

    Args:
        recipe: any.
        survey, label: which.

    Returns:
        Label names; none for an anchor.

    Errors:
        KeyError for a survey the recipe does not have.

    Example:
        >>> from hbcal import load_recipe
        >>> depends_on_true(load_recipe("textbook"), "s1", "fe_h")
        ()
    """
    if label in recipe.surveys[survey].anchor:
        return ()
    slopes = true_slopes(recipe, survey, label, np.zeros((1, len(recipe.covariates))))[0]
    return tuple(name for name, used in zip(recipe.labels, (slopes != 0).any(0), strict=True) if used)


def with_true_labels(recipe: Recipe, cat: Catalogue) -> Catalogue:
    """Leave out measurements that depend on a true label of which the star has no measurement.

    Args:
        recipe, cat: of the fit.

    Returns:
        The catalogue without them, counted by reason; the same where nothing depends on a true label.

    Errors:
        HbcalError where that is all a survey has of a label.

    Example:
        >>> with_true_labels(tiny_run().recipe, tiny_sky().catalogue) is tiny_sky().catalogue
        True
    """
    needs = {(s, l): depends_on_true(recipe, s, l) for s in cat.surveys for l in cat.labels}
    before = -1
    while before != len(cat.value):  # a measurement that goes may be the one that another needs
        before = len(cat.value)
        for (survey, label), names in needs.items():
            for name in names:
                here = (cat.survey == cat.surveys.index(survey)) & (cat.label == cat.labels.index(label))
                there = np.isin(cat.star, cat.star[cat.label == cat.labels.index(name)])
                if not here.any():
                    continue
                if not (here & there).any():
                    raise HbcalError(
                        f"{label} of survey {survey!r} depends on the true {name}, but none of its {int(here.sum())} "
                        f"measurements is of a star with a measured {name}: drop that trend or add such stars."
                    )
                cat = cat.select(~here | there, f"no {name}, on which {label} of {survey} depends")
    return cat


def refuse_without_anchor(recipe: Recipe, graph: Overlap) -> None:
    """Every label that is fitted or that a trend depends on must have an anchor with known noise among the data.

    Args:
        recipe: of the fit.
        graph: overlap of the measurements.

    Returns:
        Nothing.

    Errors:
        HbcalError naming the labels.

    Example:
        >>> refuse_without_anchor(tiny_run().recipe, tiny_prepared().overlap)
    """
    bare = [label for label in graph.fitted if not graph.anchored[label]]
    if bare:
        raise HbcalError(
            f"No anchor of {some(bare)} has data: without one the slopes of crosscal_structural run away; add the "
            "anchor's measurements, or use crosscal."
        )
    alone = {spec.true for spec in recipe.covariates.values() if spec.true} - set(graph.fitted)
    if alone:
        raise HbcalError(
            f"A trend depends on the true {some(sorted(alone))}, which fewer than two surveys report: add a survey "
            "that reports it, or give it to the trend as an observed column."
        )
    if graph.sums:
        raise HbcalError(
            f"Of {some(sorted(graph.sums))} the data know only sums of two surveys' noise: crosscal_structural cannot "
            "tell slopes from noise then; do not free error_scale or floor of its anchor."
        )


def overlap_groups(recipe: Recipe, cat: Catalogue, graph: Overlap) -> Groups:
    """Sort the stars by the set of surveys that saw them; sets of fewer than 20 stars are pooled.

    A star is in the fit where two measurements of one label tie surveys; then so are its only measurements of labels
    that trends depend on. A pool that is itself smaller than 20 joins the largest group.

    Args:
        recipe, cat: of the fit.
        graph: overlap of the measurements.

    Returns:
        `Groups`, the largest first.

    Errors:
        None.

    Example:
        >>> recipe, cat = tiny_run().recipe, tiny_sky().catalogue
        >>> overlap_groups(recipe, cat, tiny_prepared().overlap).names
        ('few', 's1+s2')
    """
    count = np.zeros((cat.n_star, len(cat.labels)), int)
    np.add.at(count, (cat.star, cat.label), 1)
    fitted = np.isin(cat.labels, graph.fitted)
    needed = np.isin(cat.labels, [spec.true for spec in recipe.covariates.values() if spec.true])
    ties = (count > 1) & fitted
    enters = ties | ((count > 0) & needed & ties.any(1)[:, None])
    # what a survey reports only of stars that no other saw has no coefficient
    tied = np.zeros((len(cat.surveys), len(cat.labels)), bool)
    at = ties[cat.star, cat.label]
    tied[cat.survey[at], cat.label[at]] = True
    for label, anchors in graph.anchored.items():
        tied[[cat.surveys.index(s) for s in anchors], cat.labels.index(label)] = True
    rows = np.flatnonzero(enters[cat.star, cat.label] & tied[cat.survey, cat.label])

    stars, names = pooled(cat, rows, LEAST)
    order = tuple(name for name, _ in Counter(names).most_common())
    of_star = np.full(cat.n_star, -1)
    of_star[stars] = [order.index(name) for name in names]
    measured = np.zeros((len(order), len(cat.labels)), bool)
    measured[of_star[cat.star[rows]], cat.label[rows]] = True
    return Groups(order, of_star, rows, measured)


def pooled(cat: Catalogue, rows: np.ndarray, least: int) -> tuple[np.ndarray, list[str]]:
    """Name the stars' groups by the surveys that saw them; groups of too few stars are pooled.

    Args:
        cat: the measurements.
        rows: those that enter the fit, (n_row,).
        least: stars that are a group of their own; a pool of fewer joins the largest group.

    Returns:
        Star numbers, (n,); the name of the group of each.

    Errors:
        ValueError for no rows.

    Example:
        >>> cat = tiny_sky().catalogue
        >>> stars, names = pooled(cat, np.arange(len(cat.value)), 20)
        >>> len(stars) == len(set(cat.star)), sorted(set(names))
        (True, ['few', 's1+s2'])
    """
    saw = np.zeros((cat.n_star, len(cat.surveys)), bool)
    saw[cat.star[rows], cat.survey[rows]] = True
    stars = np.flatnonzero(saw.any(1))
    names = ["+".join(s for s, there in zip(cat.surveys, saw[i], strict=True) if there) for i in stars]
    size = Counter(names)
    names = [name if size[name] >= least else POOL for name in names]
    size = Counter(names)
    largest = max(size, key=lambda name: size[name])
    return stars, [largest if name == POOL and size[POOL] < least else name for name in names]
