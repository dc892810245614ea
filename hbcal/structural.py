"""The stars of a prepared catalogue sorted by the surveys that saw them: what `crosscal_structural` takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hbcal.blocks import Builder
from hbcal.design import Prepared
from hbcal.distributions.population_stars import Group
from hbcal.layout import builder_of, coefficients_of, without_stars
from hbcal.programs.crosscal_structural import StructuralDesign
from hbcal.terms import trend_terms, true_reference, true_slopes


@dataclass(frozen=True)
class Structural:
    """The arguments of `crosscal_structural`.

    Attributes:
        design, y: of the program.
        rows: per group, catalogue row of each entry of y, -1 for none.
    """

    design: StructuralDesign
    y: tuple[np.ndarray, ...]
    rows: tuple[np.ndarray, ...]


def structural(prepared: Prepared) -> Structural:
    """Lay the stars of each overlap group out, with how their measurements respond to the true labels.

    Args:
        prepared: a catalogue and its design.

    Returns:
        `Structural`, label units.

    Errors:
        None.

    Example:
        >>> posed = structural(tiny_structural())
        >>> [(group.name, group.seen.shape) for group in posed.design.groups]
        [('infrared+optical', (37, 4)), ('reference+infrared+optical', (36, 6)), ('few', (21, 6))]
    """
    recipe, graph, cat, found = prepared.recipe, prepared.overlap, prepared.catalogue, prepared.groups
    builder = builder_of(prepared)
    groups, values, rows = [], [], []
    for g, name in enumerate(found.names):
        stars = np.flatnonzero(found.of_star == g)
        here = found.rows[found.of_star[cat.star[found.rows]] == g]
        parts = [
            (i, *_label(builder, prepared, i, here[cat.label[here] == cat.labels.index(label)], stars))
            for i, label in enumerate(graph.fitted) if found.measured[g, cat.labels.index(label)]
        ]  # fmt: skip
        label_of, blocks, slopes, tables = zip(*parts, strict=True)
        groups.append(Group(blocks, slopes, label_of, name))
        rows.append(np.concatenate(tables, axis=1).ravel())
        values.append(np.where(rows[-1] >= 0, cat.value[rows[-1]], 0.0))
    at = [cat.labels.index(label) for label in graph.fitted]
    centre, scale = np.array([recipe.labels[label].population for label in graph.fitted]).T
    bare = without_stars(prepared.design)
    design = StructuralDesign(bare, tuple(groups), centre, scale, true_reference(recipe)[at])
    return Structural(design, tuple(values), tuple(rows))


def _label(builder: Builder, prepared: Prepared, i: int, rows: np.ndarray, stars: np.ndarray):
    """A label's block of a group's stars, the slopes of its design rows, and its table of catalogue rows."""
    cat, recipe, label = prepared.catalogue, prepared.recipe, prepared.overlap.fitted[i]
    slots, n_free, table = builder.layout(label, rows, stars)
    terms, coefficient = coefficients_of(prepared, i)
    n_coef = prepared.expand[i].shape[2]
    block = builder.block(label, stars, table, slots, n_free, terms, coefficient, n_coef)
    fitted = [cat.labels.index(name) for name in prepared.overlap.fitted]
    slopes = np.zeros((len(stars), n_free, len(terms), len(fitted)))
    for j, (s, _) in enumerate(slots[:n_free]):
        x = cat.x[stars, s]
        names = trend_terms(recipe, cat.surveys[s], label, x).names
        seen = (table[:, j] >= 0)[:, None, None]
        own = true_slopes(recipe, cat.surveys[s], label, x)[:, :, fitted]
        slopes[:, j, [terms.index(name) for name in names]] = np.where(seen, own, 0.0)
    return block, slopes, table
