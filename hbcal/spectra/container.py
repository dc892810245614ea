"""The plain container of spectra: an ``.npz`` of wave, flux, flux_err, star and, for training, labels."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hbcal._errors import HbcalError, closest, some

NEEDED = ("wave", "flux", "flux_err", "star")
LABELLED = ("labels", "labels_err", "label_names")
KEYS = (*NEEDED, *LABELLED, "mask", "meta", "meta_names")


@dataclass(frozen=True)
class Spectra:
    """Spectra on one wavelength grid; what is missing is NaN, in flux and in flux_err alike.

    Attributes:
        wave: (n_pix,), increasing; its unit is the files'.
        flux, flux_err: (n_star, n_pix).
        star: (n_star,) ids, as text.
        labels, labels_err: (n_star, n_label); no columns where the files have none.
        label_names: (n_label,).
    """

    wave: np.ndarray
    flux: np.ndarray
    flux_err: np.ndarray
    star: np.ndarray
    labels: np.ndarray
    labels_err: np.ndarray
    label_names: tuple[str, ...]


def read_spectra(files: Sequence[Path], *, labels: bool = False) -> Spectra:
    """Read files of the plain container, one after the other.

    Keys: ``wave`` (n_pix), ``flux`` and ``flux_err`` (n_star, n_pix), ``star`` (n_star); for training ``labels`` and
    ``labels_err`` (n_star, n_label) and ``label_names``; optional ``mask`` (n_star, n_pix), true where a pixel is bad
    as in NumPy's masked arrays. NaN is missing, and so is a pixel without a finite, positive error.

    Args:
        files: paths of ``.npz`` files on one wavelength grid, with the same labels.
        labels: whether labels are needed.

    Returns:
        The spectra, in the order of the files.

    Errors:
        HbcalError for a file that is absent, damaged, or lacks a key; for shapes that disagree; for wavelengths that do
        not increase or differ between files; for negative errors; for a star that appears twice.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "two.npz"
        ...     np.savez(path, wave=[1.0, 2.0], flux=np.ones((2, 2)), flux_err=np.ones((2, 2)), star=[7, 8])
        ...     read_spectra([path]).star.tolist()
        ['7', '8']
    """
    if not files:
        raise HbcalError("No file of spectra was given: name one .npz file or more.")
    parts = [_read(Path(file), labels) for file in files]
    first = parts[0]
    for file, part in zip(files, parts, strict=True):
        if part.wave.shape != first.wave.shape or not np.array_equal(part.wave, first.wave):
            raise HbcalError(f"{file} is not on the wavelength grid of {files[0]}: resample one of them.")
        if part.label_names != first.label_names:
            raise HbcalError(
                f"{file} has the labels {some(part.label_names, 9)}, but {files[0]} has {some(first.label_names, 9)}: "
                "give every file the same, with NaN where one is missing."
            )
    star = np.concatenate([part.star for part in parts])
    ids, n_each = np.unique(star, return_counts=True)
    if (n_each > 1).any():
        raise HbcalError(
            f"{int((n_each > 1).sum())} star(s) appear more than once ({some(ids[n_each > 1])}): keep one spectrum each."
        )
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("flux", "flux_err", "labels", "labels_err")
    }
    return Spectra(wave=first.wave, star=star, label_names=first.label_names, **joined)


def _read(path: Path, needs_labels: bool) -> Spectra:
    """One file."""
    found = _arrays(path)
    unknown = [key for key in found if key not in KEYS]
    for key in NEEDED + (LABELLED if needs_labels else ()):
        if key not in found:
            raise HbcalError(f"{path} lacks the array {key!r}{closest(key, unknown) if unknown else ''}.")
    star = np.asarray(found["star"])
    star = np.char.decode(star, "utf-8") if star.dtype.kind == "S" else star.astype(str)
    n_star, n_pix = len(star), len(found["wave"])
    names = tuple(str(name) for name in found["label_names"]) if "label_names" in found else ()
    shapes = {"wave": (n_pix,), "star": (n_star,)} | {key: (n_star, n_pix) for key in ("flux", "flux_err", "mask")}
    shapes |= {key: (n_star, len(names)) for key in ("labels", "labels_err")}
    for key, shape in shapes.items():
        if key in found and found[key].shape != shape:
            raise HbcalError(
                f"{path}: {key} has the shape {found[key].shape}, but wave, star and label_names ask for {shape}."
            )
    wave = _float(found["wave"], path, "wave")
    if n_pix < 2 or not np.isfinite(wave).all() or not (np.diff(wave) > 0).all():
        raise HbcalError(f"{path}: wave must be two or more finite numbers that increase: sort the pixels.")
    flux, err = _float(found["flux"], path, "flux"), _float(found["flux_err"], path, "flux_err")
    _refuse_negative(err, path, "flux_err")
    missing = ~np.isfinite(flux) | ~np.isfinite(err) | (err == 0)
    if "mask" in found:
        missing |= found["mask"].astype(bool)
    absent = np.full((n_star, len(names)), np.nan)
    labels, labels_err = (_float(found.get(key, absent), path, key) for key in ("labels", "labels_err"))
    _refuse_negative(labels_err, path, "labels_err")
    return Spectra(
        wave, np.where(missing, np.nan, flux), np.where(missing, np.nan, err), star, labels, labels_err, names
    )


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz``."""
    if path.suffix != ".npz":
        raise HbcalError(f"{path}: spectra are read from .npz files: write the arrays with numpy.savez.")
    if not path.is_file():
        raise HbcalError(f"{path}: there is no such file of spectra.")
    try:
        with np.load(path, allow_pickle=False) as data:
            return {key: data[key] for key in data.files}
    except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
        raise HbcalError(f"{path} cannot be read as .npz, it may be truncated ({error}): write it again.") from None


def _float(array: np.ndarray, path: Path, key: str) -> np.ndarray:
    """As double precision."""
    if array.dtype.kind not in "fiu":
        raise HbcalError(f"{path}: {key} is not numbers but {array.dtype}: write it as floats, NaN where missing.")
    return np.asarray(array, float)


def _refuse_negative(err: np.ndarray, path: Path, key: str) -> None:
    """Errors may be missing, not negative."""
    n = int((err < 0).sum())
    if n:
        raise HbcalError(f"{path}: {n} value(s) of {key} are negative: correct them, or write NaN for missing.")
