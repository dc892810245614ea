"""Survey spectra that were packed into an ``.npz`` under the survey's own names: LAMOST, GALAH, Gaia XP."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hbcal._errors import HbcalError
from hbcal.numerics.linear_maps import carry, carry_noise, linear_map
from hbcal.numerics.wavelength import SPEED_OF_LIGHT
from hbcal.spectra.container import Spectra, as_spectra
from hbcal.spectra.fits_file import error_from_ivar, known
from hbcal.spectra.store import open_store

N_ARM = 4


def _arrays(path: Path, needed: Sequence[str]) -> dict[str, np.ndarray]:
    """All arrays of a packed file."""
    with open_store(path) as store:
        lacking = [key for key in needed if key not in store]
        if lacking:
            raise HbcalError(f"{path} lacks the array {lacking[0]!r}: it may be of another format.")
        return {key: np.asarray(store[key][:]) for key in store}


def _with_errors(columns: np.ndarray, names: Iterable[str]) -> dict[str, Any]:
    """Labels and their errors from one table that holds both, the error of x as ``x_err``."""
    names = [str(name) for name in names]
    labels = [name for name in names if not name.endswith("_err")]
    values = {name: known(columns[:, names.index(name)]) for name in names}
    absent = np.full(len(columns), np.nan)
    return {
        "label_names": labels,
        "labels": np.stack([values[name] for name in labels], axis=1),
        "labels_err": np.stack([values.get(f"{name}_err", absent) for name in labels], axis=1),
    }


def read_lamost_packed(path: Path) -> Spectra:
    """LAMOST low-resolution spectra: vacuum wavelengths in A, in the Sun's frame, with LASP labels.

    Args:
        path: ``.npz`` with wave_vac_A, flux, ivar, andmask, labels, label_names, meta, meta_names (with z), ids.

    Returns:
        Their spectra; meta has ``rv`` = c z beside the file's own columns.

    Errors:
        HbcalError for an array that is lacking, or what `as_spectra` refuses.

    Example:
        >>> read_lamost_packed(Path("absent.npz"))
        Traceback (most recent call last):
        hbcal._errors.HbcalError: absent.npz: there is no such file of spectra.
    """
    needed = ("wave_vac_A", "flux", "ivar", "andmask", "labels", "label_names", "meta", "meta_names", "ids")
    found = _arrays(path, needed)
    names = ["rv" if name == "rv_kms" else str(name) for name in found["label_names"]]
    meta_names = [str(name) for name in found["meta_names"]]
    rv = SPEED_OF_LIGHT * known(found["meta"][:, meta_names.index("z")])
    labels = [i for i, name in enumerate(names) if not name.startswith("rv")]  # a velocity is no label of the star
    return as_spectra(
        {
            "wave": found["wave_vac_A"],
            "flux": found["flux"],
            "flux_err": error_from_ivar(found["ivar"]),
            "mask": found["andmask"],
            "star": found["ids"],
            "meta": np.column_stack([rv, found["meta"]]),
            "meta_names": ["rv", *meta_names],
            **_with_errors(found["labels"][:, labels], [names[i] for i in labels]),
        },
        str(path),
    )


def read_xp_packed(path: Path) -> Spectra:
    """Gaia XP spectra with APOGEE labels: wavelengths in nm, flux divided by its median.

    flux = flux_lo + (flux_hi - flux_lo) flux_u16 / 65535

    Args:
        path: ``.npz`` with wave_nm, flux_u16, flux_lo, flux_hi, flux_err, labels, label_names, phot, phot_names,
            gaia_source_id.

    Returns:
        Their spectra; meta is the photometry.

    Errors:
        HbcalError for an array that is lacking, or what `as_spectra` refuses.

    Example:
        >>> read_xp_packed(Path("absent.npz"))
        Traceback (most recent call last):
        hbcal._errors.HbcalError: absent.npz: there is no such file of spectra.
    """
    needed = ("wave_nm", "flux_u16", "flux_lo", "flux_hi", "flux_err", "labels", "label_names", "gaia_source_id")
    found = _arrays(path, (*needed, "phot", "phot_names"))
    low, high = (np.asarray(found[key], float)[:, None] for key in ("flux_lo", "flux_hi"))
    return as_spectra(
        {
            "wave": found["wave_nm"],
            "flux": low + found["flux_u16"] / 65535.0 * (high - low),
            "flux_err": found["flux_err"],
            "star": found["gaia_source_id"].astype(str),
            "meta": known(found["phot"]),
            "meta_names": found["phot_names"],
            **_with_errors(found["labels"], found["label_names"]),
        },
        str(path),
    )


def read_galah_packed(path: Path) -> Spectra:
    """GALAH spectra: four arms one after the other, air wavelengths in A, in the Sun's frame.

    Each spectrum has its own pixels, a fraction of a pixel apart: they are brought to the first one's by linear
    interpolation, where its pixels are covered.

    Args:
        path: ``.npz`` with sobject_id, labels, label_names (with rv_com), snr, and for each arm k
            ccd{k}_wave_A, ccd{k}_flux, ccd{k}_relative_error.

    Returns:
        Their spectra; meta has ``rv`` and the signal-to-noise ratio of each arm.

    Errors:
        HbcalError for an array that is lacking, or what `as_spectra` refuses.

    Example:
        >>> read_galah_packed(Path("absent.npz"))
        Traceback (most recent call last):
        hbcal._errors.HbcalError: absent.npz: there is no such file of spectra.
    """
    arms = range(1, N_ARM + 1)
    each = [f"ccd{k}_{what}" for k in arms for what in ("wave_A", "flux", "relative_error")]
    found = _arrays(path, ("sobject_id", "labels", "label_names", "snr", *each))
    wave, flux, err, corr = [], [], [], []
    for k in arms:
        own, value = found[f"ccd{k}_wave_A"], np.asarray(found[f"ccd{k}_flux"], float)
        relative = np.asarray(found[f"ccd{k}_relative_error"], float)
        value_err = np.where(relative > 0, np.abs(value) * relative, np.nan)
        maps = [linear_map(np.asarray(row, float), np.asarray(own[0], float)) for row in own]
        flux.append(np.concatenate([carry(a, value[i : i + 1], value_err[i : i + 1])[0] for i, a in enumerate(maps)]))
        alone = np.empty((1, len(own[0]), 0))
        noise = [carry_noise(a, value_err[i : i + 1], alone, 1) for i, a in enumerate(maps)]
        wave.append(own[0])
        err.append(np.concatenate([each for each, _ in noise]))
        corr.append(np.concatenate([each for _, each in noise]))
    names = [str(name) for name in found["label_names"]]
    labels = [name for name in names if name.endswith("_r")]
    values = known(found["labels"])
    return as_spectra(
        {
            "wave": np.concatenate(wave),
            "flux": np.concatenate(flux, axis=1),
            "flux_err": np.concatenate(err, axis=1),
            "flux_corr": np.concatenate(corr, axis=1),
            "star": found["sobject_id"].astype(str),
            "label_names": [name.removesuffix("_r") for name in labels],
            "labels": np.stack([values[:, names.index(name)] for name in labels], axis=1),
            "labels_err": np.full((len(values), len(labels)), np.nan),
            "meta": np.column_stack([values[:, names.index("rv_com")], found["snr"]]),
            "meta_names": ["rv", *(f"snr_ccd{k}" for k in arms)],
        },
        str(path),
    )
