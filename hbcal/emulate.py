"""The job `emulate`: labels in, the spectra that an emulator expects out, with its uncertainty."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

import hbcal
from hbcal._errors import HbcalError, some
from hbcal.emulator.base import SOFTENING, Emulator, Predicted, sharing
from hbcal.label import RARE

AT_ONCE = 16  # spectra: a root of the covariance has n_pix rows


def emulate(emulator: Emulator, labels: Mapping[str, np.ndarray]) -> xr.Dataset:
    """The spectrum of a star with given labels, and how far its pixels may be off, alone and together.

        flux ~ N(flux, diag(variance) + root root'),   of stretched flux y: f = b sinh y, df = sqrt(b^2 + f^2) dy

    with b = 0.3, in units of the spectrum's median. Use it to see what an emulator has learned, to plan observations
    (the root says which pixels go wrong together), or as the spectral model of a program of your own.

    Args:
        emulator: trained.
        labels: name -> (n_star,) or one number, in the units of training: every label of the emulator.

    Returns:
        flux(star, wave), in the unit of the training spectra, or of the median where the emulator is of stretched flux;
        variance(star, wave), of each pixel on its own; root(star, wave, mode); extrapolation(star), the share of
        training stars in denser places, and flag(star), beyond all but one in a thousand. Photon noise is in it only
        where the emulator learned it with all else that pixels share (noise ``correlated``), at the level of the
        training stars.

    Errors:
        HbcalError where a label is not given, or not a number for every star, or labels differ in length or have none.

    Example:
        >>> found = emulate(tiny_pixels(), {"teff": np.array([5000.0]), "fe_h": np.array([-0.2])})
        >>> dict(found.sizes)["wave"], bool((found["variance"] > 0).all()), bool(found["flag"][0])
        (6, True, False)
    """
    known = emulator.known
    absent = [name for name in known.label_names if name not in labels]
    if absent:
        raise HbcalError(f"The emulator's label(s) {some(absent, 20)} are not given: its spectra need all of them.")
    columns = {name: np.atleast_1d(np.asarray(labels[name])) for name in known.label_names}
    shapes = {column.shape for column in columns.values()}
    if len(shapes) > 1 or len(next(iter(shapes))) > 1 or any(each.dtype.kind not in "fiu" for each in columns.values()):
        each_of = ", ".join(f"{name}: {each.dtype} of the shape {each.shape}" for name, each in columns.items())
        raise HbcalError(f"Labels must be as many numbers each, one per star, and these are {each_of}.")
    table = np.stack([column.astype(float) for column in columns.values()], axis=1)
    if not len(table):
        raise HbcalError("There is no star: give at least one value of each label.")
    bad = np.flatnonzero(~np.isfinite(table).all(axis=1))
    if bad.size:
        raise HbcalError(
            f"{bad.size} of {len(table)} stars have a label that is no number, first in row {bad[0] + 1}: leave them "
            "out."
        )
    x = (table - np.asarray(known.centre)) / np.asarray(known.unit)
    parts = []
    for first in range(0, len(x), AT_ONCE):
        part = np.resize(x[first : first + AT_ONCE], (AT_ONCE, x.shape[1]))  # one shape: one compiling
        parts.append([np.asarray(each)[: len(x) - first] for each in _predicted(emulator, jnp.asarray(part))])
    told = Predicted(*(np.concatenate(each) for each in zip(*parts, strict=True)))
    flux, variance, root = told
    if emulator.stretches:
        flux = SOFTENING * np.sinh(told.mean)
        slope = np.hypot(SOFTENING, flux)
        variance, root = slope**2 * told.variance, slope[:, :, None] * told.root
    outside = 1.0 - sharing(known.typical, known.density.log_density(jnp.asarray(x)))
    by_pixel = ("star", "wave")
    data = {
        "flux": (by_pixel, flux), "variance": (by_pixel, variance), "root": ((*by_pixel, "mode"), root),
        "extrapolation": ("star", outside), "flag": ("star", outside > 1.0 - RARE),
    }  # fmt: skip
    unit = "median of the spectrum" if emulator.stretches else "as in training"
    return xr.Dataset(data, {"wave": np.asarray(known.wave)}, {"hbcal": hbcal.__version__, "unit": unit})


@jax.jit
def _predicted(emulator: Emulator, x: jax.Array) -> Predicted:
    found: Predicted = jax.vmap(emulator.predict)(x)
    return found
