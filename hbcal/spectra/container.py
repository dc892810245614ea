"""The plain container of spectra: wave, flux, flux_err, star and, for training, labels; in .npz, HDF5 or Zarr."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from hbcal._errors import HbcalError, closest, some
from hbcal.spectra.neighbours import checked
from hbcal.spectra.store import FAULTS, open_store, stacked, write_store

NEEDED = ("wave", "flux", "flux_err", "star")
LABELLED = ("labels", "labels_err", "label_names")
KEYS = (*NEEDED, *LABELLED, "mask", "meta", "meta_names", "flux_corr")
ROWS = ("flux", "flux_err", "star", "labels", "labels_err", "meta", "flux_corr")  # of Spectra: no mask, NaN is missing
BY_STAR = (*ROWS, "mask")
NOTHING = (-9999.0, -999.0)  # what surveys write where they know nothing, as `hbcal.catalogue.read.SENTINELS`
N_BATCH, N_RUN = 1000, 30  # stars written at a time, at least; sorted lists of ids before they become one


@dataclass(frozen=True)
class Spectra:
    """Spectra on one wavelength grid; what is missing is NaN, in flux and in flux_err alike.

    Attributes:
        wave: (n_pix,), increasing; its unit is the files'.
        flux, flux_err: (n_star, n_pix).
        star: (n_star,) ids, as text.
        labels, labels_err: (n_star, n_label); no columns where the files have none.
        label_names: (n_label,).
        meta: (n_star, n_meta), numbers known beside the spectrum: ``rv`` in km/s, ``snr``, ``ra``, ``dec`` ...
        meta_names: (n_meta,).
        flux_corr: how the noise of each pixel correlates with that of the next ones, (n_star, n_pix, n_band), 0 where a
            pixel is missing; no columns where pixels are independent, or that is not known.
    """

    wave: np.ndarray
    flux: np.ndarray
    flux_err: np.ndarray
    star: np.ndarray
    labels: np.ndarray
    labels_err: np.ndarray
    label_names: tuple[str, ...]
    meta: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    meta_names: tuple[str, ...] = ()
    flux_corr: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 0), np.float32))

    def __post_init__(self) -> None:
        if self.flux_corr.shape[2] and self.flux_corr.shape[:2] != self.flux.shape:
            raise ValueError(
                f"flux_corr is of {self.flux_corr.shape[:2]} spectra and pixels, flux of {self.flux.shape}."
            )
        if not self.flux_corr.shape[2]:
            object.__setattr__(self, "flux_corr", np.empty((*self.flux.shape, 0), np.float32))
        if not self.meta_names:  # the default knows not how many stars there are
            object.__setattr__(self, "meta", np.empty((len(self.star), 0)))

    def take(self, rows: np.ndarray | slice) -> Spectra:
        """Some of the stars: every array that has a row for each, labels and meta among them.

        Example:
            >>> two = np.ones((2, 2))
            >>> Spectra(two[0], two, two, two[0], two, two, ("a", "b"), two, ("rv", "snr")).take(slice(1)).meta.shape
            (1, 2)
        """
        return replace(self, **{name: getattr(self, name)[rows] for name in ROWS})

    def about(self, name: str) -> np.ndarray:
        """One column of meta, (n_star,); NaN where the files do not have it.

        Example:
            >>> two = np.ones((2, 2))
            >>> Spectra(two[0], two, two, two[0], two, two, ("a", "b"), two, ("rv", "snr")).about("rv").tolist()
            [1.0, 1.0]
        """
        if name in self.meta_names:
            return self.meta[:, self.meta_names.index(name)]
        return np.full(len(self.star), np.nan)

    def beside(self, names: Sequence[str]) -> np.ndarray | None:
        """Columns of meta, or differences of two such as ``bp-rp``, (n_star, n_name); None where no name is given.

        Errors: HbcalError for a name that is not there.

        Example:
            >>> two = np.ones((2, 2))
            >>> meta = np.array([[3.0, 2.0]] * 2)
            >>> Spectra(two[0], two, two, two[0], two, two, ("a", "b"), meta, ("j", "k")).beside(["j-k"]).tolist()
            [[1.0], [1.0]]
        """
        columns = []
        for name in names:
            cuts = [(name[:k], name[k + 1 :]) for k, letter in enumerate(name) if letter == "-"]
            pairs = [pair for pair in cuts if set(pair) <= set(self.meta_names)]
            if name in self.meta_names:
                columns.append(self.about(name))
            elif len(pairs) == 1:
                columns.append(self.about(pairs[0][0]) - self.about(pairs[0][1]))
            else:
                raise HbcalError(
                    f"The spectra have no {name!r} among what is known beside them{closest(name, self.meta_names)}: "
                    f"give one of their meta_names [{some(self.meta_names, 20)}], or two with a dash between."
                )
        return np.stack(columns, axis=1) if columns else None


def read_spectra(files: Sequence[Path], *, labels: bool = False) -> Spectra:
    """Read files of the plain container, one after the other.

    Keys: ``wave`` (n_pix), ``flux`` and ``flux_err`` (n_star, n_pix), ``star`` (n_star); for training ``labels`` and
    ``labels_err`` (n_star, n_label) and ``label_names``; optional ``mask`` (n_star, n_pix), true where a pixel is bad
    as in NumPy's masked arrays, ``meta`` (n_star, n_meta) with ``meta_names``, and ``flux_corr`` (n_star, n_pix,
    n_band), the correlation of each pixel's noise with that of the next ones, as resampling makes it. NaN is missing,
    and so is a pixel without a finite, positive error.

    Args:
        files: paths of ``.npz``, ``.h5``, ``.hdf5`` or ``.zarr`` files on one wavelength grid, with the same labels.
        labels: whether labels are needed.

    Returns:
        The spectra, in the order of the files.

    Errors:
        HbcalError for a file that is absent, damaged, or lacks a key; for shapes that disagree; for wavelengths that do
        not increase or differ between files; for negative errors; for correlations that no noise has; for a star that
        appears twice.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "two.npz"
        ...     np.savez(path, wave=[1.0, 2.0], flux=np.ones((2, 2)), flux_err=np.ones((2, 2)), star=[7, 8])
        ...     read_spectra([path]).star.tolist()
        ['7', '8']
    """
    return join(iter_spectra(files, 1 << 62, labels=labels))


def iter_spectra(files: Sequence[Path], n: int, *, labels: bool = False) -> Iterator[Spectra]:
    """Read files of the plain container in pieces of at most `n` stars, so that 10^6 spectra need little memory.

    Args:
        files: as for `read_spectra`.
        n: the most stars in a piece.
        labels: whether labels are needed.

    Returns:
        The pieces, in the order of the files; no piece crosses from one file to the next.

    Errors:
        As `read_spectra`, when the piece is reached: only the ids of the stars seen so far are kept.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "five.npz"
        ...     np.savez(path, wave=[1.0, 2.0], flux=np.ones((5, 2)), flux_err=np.ones((5, 2)), star=np.arange(5))
        ...     [len(piece.star) for piece in iter_spectra([path], 2)]
        [2, 2, 1]
    """
    if not files:
        raise HbcalError("No file of spectra was given: name one .npz, .h5 or .zarr file or more.")
    pieces = ((str(file), piece) for file in files for piece in _pieces(Path(file), n, labels))
    yield from agreeing(pieces)


def agreeing(pieces: Iterable[tuple[str, Spectra]]) -> Iterator[Spectra]:
    """Pass on spectra that fit together, and stop at the first that does not.

    Args:
        pieces: where each is from, and the spectra.

    Returns:
        The spectra, unchanged; columns of meta are brought into the order of the first.

    Errors:
        HbcalError for another wavelength grid or other labels than the first, or a star seen before.

    Example:
        >>> one = as_spectra({"wave": [1, 2], "flux": [[1, 1]], "flux_err": [[1, 1]], "star": ["a"]}, "one")
        >>> list(agreeing([("one", one), ("two", one)]))
        Traceback (most recent call last):
        hbcal._errors.HbcalError: 1 star(s) appear more than once ('a'): keep one spectrum each.
    """
    first: Spectra | None = None
    origin, seen = "", list[np.ndarray]()
    for file, piece in pieces:
        if first is None:
            first, origin = piece, file
        if piece.wave.shape != first.wave.shape or not np.array_equal(piece.wave, first.wave):
            raise HbcalError(
                f"{file} is not on the wavelength grid of {origin}: resample it with hbcal spectra convert --wave-from "
                f"{origin}."
            )
        if piece.label_names != first.label_names:
            raise HbcalError(
                f"{file} has the labels {some(piece.label_names, 9)}, but {origin} has {some(first.label_names, 9)}: "
                "give every file the same, with NaN where one is missing."
            )
        ids, n_each = np.unique(piece.star, return_counts=True)
        short = np.char.encode(ids, "utf-8")  # of 10^6 stars 20 MB, where a set of words takes 150
        known = [_among(run, short) for run in seen]
        twice = [str(star) for star in ids[np.any([n_each > 1, *known], axis=0)]]
        if twice:
            raise HbcalError(f"{len(twice)} star(s) appear more than once ({some(twice)}): keep one spectrum each.")
        seen.append(short)
        if len(seen) > N_RUN:
            seen = [np.sort(np.concatenate(seen), kind="stable")]
        if piece.meta_names != first.meta_names:
            columns = [piece.about(name) for name in first.meta_names]
            meta = np.stack(columns, axis=1) if columns else np.empty((len(piece.star), 0))
            piece = replace(piece, meta=meta, meta_names=first.meta_names)
        yield piece


def _among(known: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Which of the ids are among sorted ones."""
    return known[np.minimum(np.searchsorted(known, ids), len(known) - 1)] == ids


def join(pieces: Iterable[Spectra]) -> Spectra:
    """Pieces that fit together, as one.

    Args:
        pieces: as `iter_spectra` or `agreeing` give them.

    Returns:
        All of them.

    Errors:
        HbcalError where there is none.

    Example:
        >>> one = as_spectra({"wave": [1, 2], "flux": [[1, 1]], "flux_err": [[1, 1]], "star": ["a"]}, "one")
        >>> join([one, one]).flux.shape
        (2, 2)
    """
    every = list(pieces)
    if not every:
        raise HbcalError("There is no star in these files.")
    joined: dict[str, Any] = {name: stacked([getattr(piece, name) for piece in every]) for name in ROWS}
    return replace(every[0], **joined)


def _batches(pieces: Iterable[Spectra]) -> Iterator[Spectra]:
    """Small pieces together: surveys have a file for each star, and a chunk on disk is for a thousand."""
    held: list[Spectra] = []
    for piece in pieces:
        held.append(piece)
        if sum(len(each.star) for each in held) >= N_BATCH:
            yield join(held)
            held = []
    if held:
        yield join(held)


def write_spectra(spectra: Spectra | Iterable[Spectra], path: Path) -> int:
    """Write spectra to the plain container; the file is complete or absent.

    Args:
        spectra: all of them, or pieces that fit together; HDF5 and Zarr files never hold them all in memory.
        path: ``.npz``, ``.h5``, ``.hdf5`` or ``.zarr``; replaced if it exists.

    Returns:
        The number of stars written.

    Errors:
        HbcalError for another suffix, or no star; OSError when the disk says no.

    Example:
        >>> import tempfile
        >>> one = as_spectra({"wave": [1, 2], "flux": [[1, 1]], "flux_err": [[1, 1]], "star": ["a"]}, "one")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     n = write_spectra(one, Path(folder) / "one.h5")
        ...     read_spectra([Path(folder) / "one.h5"]).star.tolist()
        ['a']
    """
    pieces = [spectra] if isinstance(spectra, Spectra) else spectra
    return write_store(map(_as_arrays, _batches(pieces)), Path(path), BY_STAR)


def _as_arrays(spectra: Spectra) -> dict[str, np.ndarray]:
    """By the keys of the container; no empty tables."""
    arrays = {each.name: getattr(spectra, each.name) for each in fields(spectra)}
    for key, names in (("labels", "label_names"), ("labels_err", "label_names"), ("meta", "meta_names")):
        if not arrays[names]:
            arrays.pop(key)
    return {key: np.asarray(array) for key, array in arrays.items() if not isinstance(array, tuple) or array}


def _pieces(path: Path, n: int, needs_labels: bool) -> Iterator[Spectra]:
    """The pieces of one file."""
    with open_store(path) as store:
        unknown = [key for key in store if key not in KEYS]
        for key in NEEDED + (LABELLED if needs_labels else ()):
            if key not in store:
                raise HbcalError(f"{path} lacks the array {key!r}{closest(key, unknown) if unknown else ''}.")
        known = {key: store[key] for key in KEYS if key in store}
        _refuse_shapes({key: tuple(array.shape) for key, array in known.items()}, str(path))
        whole = {key: np.asarray(array[:]) for key, array in known.items() if key not in BY_STAR}
        total = known["star"].shape[0]
        for start in range(0, total, n):
            rows = slice(start, min(start + n, total))
            part = {key: np.asarray(array[rows]) for key, array in known.items() if key in BY_STAR}
            try:
                piece = as_spectra(whole | part, str(path))
            except FAULTS as error:
                raise error if isinstance(error, HbcalError) else HbcalError(f"{path}: {error}.") from None
            yield piece
        if total == 0:
            raise HbcalError(f"{path} holds no star.")


def as_spectra(found: Mapping[str, Any], where: str) -> Spectra:
    """Check the arrays of the plain container, and make what is missing NaN: every reader ends here.

    Args:
        found: by the keys of `read_spectra`; `wave`, `flux`, `flux_err` and `star` are needed.
        where: the file, for messages.

    Returns:
        The spectra.

    Errors:
        HbcalError for shapes that disagree, wavelengths that do not increase, negative errors, correlations that no
        noise has, or text for numbers.

    Example:
        >>> found = {"wave": [1, 2], "flux": [[1, 1]], "flux_err": [[0.1, 0]], "star": [7]}
        >>> as_spectra(found, "here").flux.tolist()
        [[1.0, nan]]
    """
    arrays = {key: np.asarray(array) for key, array in found.items()}
    _refuse_shapes({key: array.shape for key, array in arrays.items()}, where)
    star, wave = _ids(arrays["star"], where), _float(arrays["wave"], where, "wave")
    names, meta_names = (_names(arrays.get(key, ()), where, key) for key in ("label_names", "meta_names"))
    if len(wave) < 2 or not np.isfinite(wave).all() or not (np.diff(wave) > 0).all():
        raise HbcalError(f"{where}: wave must be two or more finite numbers that increase: sort the pixels.")
    flux, err = (_float(arrays[key], where, key) for key in ("flux", "flux_err"))
    _refuse_negative(err, where, "flux_err")
    missing = ~np.isfinite(flux) | ~np.isfinite(err) | (err == 0) | np.asarray(arrays.get("mask", False), bool)
    nothing = lambda names: np.full((len(star), len(names)), np.nan)  # noqa: E731
    labels, labels_err = (_float(arrays.get(key, nothing(names)), where, key) for key in ("labels", "labels_err"))
    _refuse_negative(labels_err, where, "labels_err")
    labels = np.where(np.isfinite(labels) & ~np.isinf(labels_err) & ~np.isin(labels, NOTHING), labels, np.nan)
    meta = _float(arrays.get("meta", nothing(meta_names)), where, "meta")
    flux, err = (np.where(missing, np.nan, each) for each in (flux, err))
    corr = checked(arrays.get("flux_corr", np.empty((*flux.shape, 0))), ~missing, star, where)
    labels_err = np.where(np.isinf(labels_err), np.nan, labels_err)
    return Spectra(wave, flux, err, star, labels, labels_err, names, meta, meta_names, corr)


def _ids(star: np.ndarray, where: str) -> np.ndarray:
    """As text without blanks around it; numbers only where no digit is lost."""
    if star.dtype.kind == "f":
        if not ((star == np.round(star)) & (np.abs(star) <= 2.0 ** np.finfo(star.dtype).nmant)).all():
            raise HbcalError(f"{where}: star holds floats that are no whole numbers, or too large: save ids as text.")
        star = star.astype(np.int64)
    return np.char.strip(np.char.decode(star, "utf-8") if star.dtype.kind == "S" else np.array(star.tolist(), str))


def _names(array: Any, where: str, key: str) -> tuple[str, ...]:
    """Text, whether it was stored as letters or bytes."""
    names = tuple(name.decode() if isinstance(name, bytes) else str(name) for name in np.asarray(array).tolist())
    if len(set(names)) < len(names):
        raise HbcalError(f"{where}: {key} has a name more than once ({some(names, 20)}): give each its own.")
    return names


def _refuse_shapes(shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Every array has the shape that wave, star and the names ask for."""
    n_star, n_pix = (shapes[key][:1] for key in ("star", "wave"))
    asked = {"wave": n_pix, "star": n_star} | dict.fromkeys(("flux", "flux_err", "mask"), n_star + n_pix)
    asked |= {key: n_star + shapes.get("label_names", (0,)) for key in ("labels", "labels_err")}
    asked |= {"meta": n_star + shapes.get("meta_names", (0,))}
    if "flux_corr" in shapes:
        asked["flux_corr"] = n_star + n_pix + (shapes["flux_corr"][2:3] or (1,))
    for key, shape in asked.items():
        if key in shapes and (shapes[key] != shape or len(shape) == 0):
            raise HbcalError(
                f"{where}: {key} has the shape {shapes[key]}, but wave, star and the names of the columns ask for "
                f"{shape}."
            )


def _float(array: np.ndarray, where: str, key: str) -> np.ndarray:
    """As double precision."""
    if array.dtype.kind not in "fiu":
        raise HbcalError(f"{where}: {key} is not numbers but {array.dtype}: write it as floats, NaN where missing.")
    return np.asarray(array, float)


def _refuse_negative(err: np.ndarray, where: str, key: str) -> None:
    """Errors may be missing, not negative."""
    if n := int((err < 0).sum()):
        raise HbcalError(f"{where}: {n} value(s) of {key} are negative: correct them, or write NaN for missing.")
