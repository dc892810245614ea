"""The stars of a prepared catalogue visit by visit, the labels side by side: what `crosscal_correlated` takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hbcal.blocks import Builder
from hbcal.design import Prepared
from hbcal.distributions.correlated_stars import Visits
from hbcal.groups import pooled
from hbcal.layout import builder_of, coefficients_of, without_stars
from hbcal.programs.crosscal_correlated import CorrelatedDesign
from hbcal.visits import given_correlations, visits_of

LEAST = 500  # stars that are a group of their own: each one has to be compiled, and padding is cheap


@dataclass(frozen=True)
class Correlated:
    """The arguments of `crosscal_correlated`.

    Attributes:
        design, y: of the program.
        rows: catalogue row of each entry of y, (n_row, n_label), -1 for none.
    """

    design: CorrelatedDesign
    y: tuple[np.ndarray]
    rows: np.ndarray


def correlated(prepared: Prepared) -> Correlated:
    """Lay the stars of each group out, the labels of a visit in one row.

    Args:
        prepared: a catalogue and its design.

    Returns:
        `Correlated`, label units.

    Errors:
        None: `hbcal.design.prepare` has refused what cannot be answered.

    Example:
        >>> posed = correlated(tiny_correlated())
        >>> [(group.name, group.seen.shape[1:]) for group in posed.design.groups]  # three visits, two labels
        [('few', (3, 2))]
        >>> posed.design.correlated
        (('s1', (0, 1)), ('s2', (0, 1)))
    """
    recipe, graph, cat = prepared.recipe, prepared.overlap, prepared.catalogue
    builder = builder_of(prepared)
    rows = np.concatenate([where[where >= 0] for where in prepared.rows])
    present = [survey for s, survey in enumerate(cat.surveys) if (cat.survey[rows] == s).any()]
    lists = {survey: recipe.surveys[survey].correlated for survey in present}
    asked = {survey: tuple(map(graph.fitted.index, labels)) for survey, labels in lists.items() if labels}
    visit = visits_of(cat)
    stars, names = pooled(cat, rows, LEAST)
    groups, tables = [], []
    for name in dict.fromkeys(names):
        here = stars[np.array(names) == name]
        group, table = _group(builder, prepared, list(asked), name, here, rows[np.isin(cat.star[rows], here)], visit)
        groups.append(group)
        tables.append(table.reshape(-1, len(graph.fitted)))
    joined = np.concatenate(tables)
    design = CorrelatedDesign(without_stars(prepared.design), tuple(groups), tuple(asked.items()))
    return Correlated(design, (np.where(joined >= 0, cat.value[joined], 0.0),), joined)


def _group(
    builder: Builder, prepared: Prepared, asked: list[str], name: str, stars: np.ndarray, rows: np.ndarray,
    visit: np.ndarray,
) -> tuple[Visits, np.ndarray]:  # fmt: skip
    """The group's arrays, and the catalogue row of each of its entries, (n_star, n_visit, n_label)."""
    cat, fitted = prepared.catalogue, prepared.overlap.fitted
    anchors = [{cat.surveys.index(s) for s in builder.anchors[label]} for label in fitted]
    label_of = np.array([fitted.index(l) if l in fitted else -1 for l in cat.labels])[cat.label[rows]]
    slot_of = [*zip(cat.survey[rows].tolist(), visit[rows].tolist(), strict=True)]
    free = {slot for slot, l in zip(slot_of, label_of, strict=True) if slot[0] not in anchors[l]}
    slots = sorted(set(slot_of), key=lambda slot: (slot not in free, slot))
    table = np.full((len(stars), len(slots), len(fitted)), -1)
    table[np.searchsorted(stars, cat.star[rows]), [slots.index(slot) for slot in slot_of], label_of] = rows

    size = [len(label.weight) for label in prepared.design.labels]
    n_term = max(int(np.abs(expand).any((0, 2)).sum()) for expand in prepared.expand)
    shape = table.shape
    arrays = {
        "phi": np.zeros((shape[0], len(free), shape[2], n_term)),
        "spread": np.zeros((len(free), shape[2], n_term, sum(size))),
        "err": np.zeros(shape),
        "psi": np.zeros((*shape, len(builder.floor_names))),
    }
    scale_of, floor_of = (np.full(shape[1:], -1) for _ in range(2))
    for i, label in enumerate(fitted):
        own = [j for j, _ in enumerate(slots) if (table[:, j, i] >= 0).any()]
        own.sort(key=lambda j: (slots[j][0] in anchors[i], j))
        n_free = sum(slots[j][0] not in anchors[i] for j in own)
        if not own:
            continue
        terms, coefficient = coefficients_of(prepared, i)
        chosen = [slots[j] for j in own]
        block = builder.block(label, stars, table[:, own, i], chosen, n_free, terms, coefficient, size[i])
        mine = slice(sum(size[:i]), sum(size[: i + 1]))
        arrays["phi"][:, own[:n_free], i, : len(terms)] = block.phi
        each = np.asarray(block.spread).reshape(n_free, len(terms), size[i])
        arrays["spread"][own[:n_free], i, : len(terms), mine] = each
        arrays["err"][:, own, i], arrays["psi"][:, own, i] = np.sqrt(block.err2), block.psi
        scale_of[own, i], floor_of[own, i] = block.scale_of, block.floor_of
    arrays["spread"] = arrays["spread"].reshape(-1, sum(size))
    corr, given = given_correlations(cat, [cat.labels.index(label) for label in fitted], table)
    corr_of = tuple(asked.index(cat.surveys[s]) if cat.surveys[s] in asked else -1 for s, _ in slots)
    scales, floors = (tuple(tuple(row) for row in x.tolist()) for x in (scale_of, floor_of))
    seen = table >= 0
    visits = Visits(
        seen, corr=corr, given=given, scale_of=scales, floor_of=floors, corr_of=corr_of, name=name, **arrays
    )
    return visits, table
