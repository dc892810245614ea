"""What the programs that lay a prepared catalogue out anew have in common; `crosscal` takes it as it is prepared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hbcal.blocks import Builder
from hbcal.design import Prepared, anchors_of, voting
from hbcal.programs.crosscal import Design


def builder_of(prepared: Prepared) -> Builder:
    """A builder that numbers error scales and floors as the prepared design does.

    Args:
        prepared: a catalogue and its design, without clusters.

    Returns:
        `Builder`.

    Errors:
        None.

    Example:
        >>> builder_of(tiny_prepared()).floors
        [('s1', 'fe_h'), ('s2', 'fe_h')]
    """
    recipe, cat = prepared.recipe, prepared.catalogue
    builder = Builder(recipe, cat, prepared.overlap, anchors_of(recipe), voting(recipe, cat))
    builder.error_scales, builder.floors = list(prepared.error_scales), list(prepared.floors)
    builder.floor_names = list(prepared.floor_names)
    return builder


def coefficients_of(prepared: Prepared, i: int) -> tuple[list[str], dict[tuple[int, str], np.ndarray]]:
    """The terms of a fitted label, and which coefficients make up those of each survey.

    Args:
        prepared: a catalogue and its design.
        i: which label.

    Returns:
        Names; (survey, term) -> coefficients, (n_coef,).

    Errors:
        IndexError for a label that is not fitted.

    Example:
        >>> terms, rows = coefficients_of(tiny_prepared(), 0)
        >>> terms, rows[1, "x1"].tolist()
        (['offset', 'x1', 'x2'], [0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
    """
    expand = prepared.expand[i]
    has = np.abs(expand).sum(2) > 0
    terms = [name for name, used in zip(prepared.terms, has.any(0), strict=True) if used]
    return terms, {(s, prepared.terms[t]): expand[s, t] for s, t in np.argwhere(has).tolist()}


def without_stars(design: Design) -> Design:
    """The globals of a design alone.

    Args:
        design: of `crosscal`.

    Returns:
        The same, its labels without blocks.

    Errors:
        None.

    Example:
        >>> without_stars(tiny_prepared().design).labels[0].blocks
        ()
    """
    return replace(design, labels=tuple(replace(label, blocks=()) for label in design.labels))
