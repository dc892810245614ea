"""Shapes that may multiply spectra, of a file: an extinction curve, a fringe, what a flat field leaves."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np

from hbcal._errors import HbcalError, some

TAKEN = ("velocity", "broadening")


class Basis(NamedTuple):
    """Shapes b_j on an emulator's pixels: a spectrum is multiplied by exp(sum_j c_j b_j), c_j normal around zero.

    Attributes:
        shape: (n_pix, n_shape).
        sd: of each c, (n_shape,).
        names: (n_shape,).
    """

    shape: np.ndarray
    sd: np.ndarray
    names: tuple[str, ...]


def read_basis(path: Path, wave: np.ndarray) -> Basis:
    """Read shapes, and bring them onto an emulator's pixels by linear interpolation.

    For an extinction of A magnitudes at V, the shape is -0.4 ln(10) k(wavelength), with k the curve in units of A, as
    the package `dust_extinction` gives it, and its c is A.

    Args:
        path: an ``.npz`` with ``wave`` (n), ``basis`` (n, n_shape) or (n,), ``sd`` (n_shape), and perhaps ``names``.
        wave: of the emulator, (n_pix,).

    Returns:
        `Basis`.

    Errors:
        HbcalError for a file that cannot be read or lacks an array, shapes that disagree, numbers that are none, an sd
        that is not positive, names that are taken, and wavelengths that do not increase or do not cover the emulator's.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "dust.npz"
        ...     np.savez(path, wave=[4000.0, 6000.0], basis=[-1.2, -0.8], sd=0.3, names="A_V")
        ...     basis = read_basis(path, np.array([4000.0, 5000.0]))
        >>> basis.shape.ravel().tolist(), basis.names
        ([-1.2, -1.0], ('A_V',))
    """
    try:
        with np.load(path, allow_pickle=False) as saved:
            lacking = [name for name in ("wave", "basis", "sd") if name not in saved]
            if lacking:
                raise HbcalError(f"{path} lacks the array(s) {some(lacking)}: a basis has wave, basis and sd.")
            at, shape, sd = (np.asarray(saved[name], float) for name in ("wave", "basis", "sd"))
            names = np.atleast_1d(saved["names"]).astype(str).tolist() if "names" in saved else None
    except (OSError, ValueError, TypeError, KeyError, EOFError, BadZipFile, zlib.error) as error:
        raise error if isinstance(error, HbcalError) else HbcalError(
            f"{path} cannot be read as an .npz of shapes ({error}): write wave, basis and sd with numpy.savez."
        ) from None  # fmt: skip
    shape, sd = shape.reshape(len(shape), -1) if shape.ndim else shape[None, None], np.atleast_1d(sd)
    names = [f"basis_{k}" for k in range(shape.shape[1])] if names is None else names
    if at.ndim != 1 or len(at) != len(shape) or not len(sd) == len(names) == shape.shape[1]:
        raise HbcalError(
            f"{path}: {at.size} wavelengths, a basis of the shape {shape.shape}, {len(sd)} sds and {len(names)} names "
            "do not fit together."
        )
    taken = [name for name in names if names.count(name) > 1 or name in TAKEN or name.startswith("continuum")]
    if taken:
        raise HbcalError(f"{path}: the name(s) {some(taken)} are there twice or of other nuisances: choose others.")
    if not (np.isfinite(shape).all() and np.isfinite(sd).all() and (sd > 0).all()):
        raise HbcalError(f"{path}: every number of the basis must be finite, and every sd positive.")
    if len(at) < 2 or not (np.diff(at) > 0).all() or at[0] > wave[0] or at[-1] < wave[-1]:
        raise HbcalError(
            f"{path}: its wavelengths must increase and cover those of the emulator, {wave[0]:g} to {wave[-1]:g}."
        )
    return Basis(np.stack([np.interp(wave, at, one) for one in shape.T], axis=1), sd, tuple(names))
