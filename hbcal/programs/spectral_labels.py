"""The labels of one star from its spectrum, and from whatever else was measured of them."""

from __future__ import annotations

from typing import Any

import numpyro

from hbcal._pytree import pytree
from hbcal._typing import AnyArray, Array, Float
from hbcal.distributions.labels import Labels
from hbcal.emulator.base import Emulator
from hbcal.numerics.label_density import LabelDensity
from hbcal.numerics.measured import Measured


@pytree
class Observed:
    """A star.

    Attributes:
        spectrum: of `Emulator.read`.
        measured: labels that are known besides.
    """

    spectrum: Any
    measured: Measured


def spectral_labels(emulator: Emulator, prior: LabelDensity | None = None, star: Observed | None = None) -> AnyArray:
    """Labels of a star whose spectrum an emulator has read.

        x ~ prior,    spectrum ~ emulator(x),    measured_l ~ N(x_l, err_l)

    | site     | prior                                      | what                                            |
    |----------|--------------------------------------------|-------------------------------------------------|
    | x        | the training stars' density, or the user's | labels, (label - centre) / unit                 |
    | spectrum | Emulator.log_likelihood                    | noise, emulator error, nuisances integrated out |
    | measured | Measured.log_likelihood                    | labels told by others; 0 where there are none   |

    One star, since each is sampled on its own: `hbcal.infer.many` runs hundreds side by side. Omit `star` to draw
    labels from the prior.

    Args:
        emulator: trained.
        prior: of the scaled labels; the training stars' density where None.
        star: `Observed`.

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
        numpyro.factor("spectrum", emulator.log_likelihood(x, star.spectrum))
        numpyro.factor("measured", star.measured.log_likelihood(x))
    return x


def log_joint(emulator: Emulator, prior: LabelDensity | None, x: Float[Array, " n_label"], star: Observed) -> Array:
    """ln p(spectrum | labels) + ln p(measured | labels) + ln p(labels), up to a number: the program as a function.

    Args:
        emulator: trained.
        prior: of the scaled labels; the training stars' density where None.
        x: scaled labels.
        star: `Observed`.

    Returns:
        A number.

    Errors:
        None.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> emulator, none = tiny_emulator(), Measured(jnp.zeros(2), jnp.zeros(2))
        >>> spectra, _ = emulator.read(tiny_spectra().flux, tiny_spectra().flux_err)
        >>> star = Observed(jax.tree.map(lambda leaf: leaf[0], spectra), none)
        >>> bool(jnp.isfinite(log_joint(emulator, None, jnp.zeros(2), star)))
        True
    """
    told = emulator.log_likelihood(x, star.spectrum) + star.measured.log_likelihood(x)
    return told + (emulator.known.density if prior is None else prior).log_density(x)
