"""The labels of one star from its spectrum."""

from __future__ import annotations

from typing import Any

import numpyro

from hbcal._typing import AnyArray
from hbcal.distributions.labels import Labels
from hbcal.emulator.base import Emulator
from hbcal.numerics.label_density import LabelDensity


def spectral_labels(emulator: Emulator, star: Any = None, *, prior: LabelDensity | None = None) -> AnyArray:
    """Labels of a star whose spectrum an emulator has read.

        x ~ prior,    spectrum ~ emulator(x)

    | site     | prior                                      | what                                        |
    |----------|--------------------------------------------|---------------------------------------------|
    | x        | the training stars' density, or the user's | labels, (label - centre) / unit             |
    | spectrum | Emulator.log_likelihood                    | noise and emulator error, however modelled  |

    One star, since each is sampled on its own: `hbcal.infer.many` runs hundreds side by side. Omit `star` to draw
    labels from the prior.

    Args:
        emulator: trained.
        star: of `Emulator.read`, one star.
        prior: of the scaled labels; the training stars' density where None.

    Returns:
        The scaled labels.

    Errors:
        None.

    Example:
        >>> drawn = numpyro.handlers.seed(spectral_labels, 0)(tiny_emulator())
        >>> drawn.shape
        (2,)
    """
    x = numpyro.sample("x", Labels(emulator.known.density if prior is None else prior))
    if star is not None:
        numpyro.factor("spectrum", emulator.log_likelihood(x, star))
    return x
