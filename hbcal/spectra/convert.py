"""The job `spectra convert`: files of a survey in, one file of the plain container out, resampled if wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array, eye_array

from hbcal._errors import HbcalError, some
from hbcal.emulator.files import MODEL, load_emulator
from hbcal.numerics.linear_maps import UNRELATED, broadening_map, carry, carry_noise, conserving_map, n_neighbours
from hbcal.numerics.wavelength import air_to_vacuum, rest_frame, width_between
from hbcal.spectra.container import Spectra, agreeing, write_spectra
from hbcal.spectra.formats import iter_any
from hbcal.spectra.pixels import among, at

MOST_BAND = 12  # pixels whose noise goes together: beyond, a file would be mostly correlations


@dataclass(frozen=True)
class Steps:
    """What happens to spectra between the survey's file and the container; by default nothing.

    Attributes:
        wave: the new wavelengths, (n_pix,); None leaves the files'.
        powers: resolving power now, and wanted.
        medium: ``vacuum``, to turn air wavelengths in A into vacuum ones, or ``as given``.
        frame: ``rest``, to take out each star's ``rv``, or ``as given``.
    """

    wave: np.ndarray | None = None
    powers: tuple[float, float] | None = None
    medium: str = "as given"
    frame: str = "as given"


def log_grid(start: float, stop: float, n: int) -> np.ndarray:
    """Wavelengths that are even in the logarithm: a pixel is the same velocity everywhere.

    wave_i = start (stop / start)^(i / (n - 1))

    Args:
        start, stop: the first and the last, in the unit of the spectra.
        n: how many.

    Returns:
        The wavelengths, (n,).

    Errors:
        HbcalError for a grid that does not increase.

    Example:
        >>> log_grid(1.0, 100.0, 3).tolist()
        [1.0, 10.0, 100.0]
    """
    if not (0 < start < stop < np.inf and n >= 2):
        raise HbcalError(
            f"A grid of {n} wavelengths from {start:g} to {stop:g} does not increase: START < STOP, N >= 2."
        )
    return np.geomspace(start, stop, n)


def prepare(spectra: Spectra, steps: Steps) -> Spectra:
    """Spectra in vacuum, at rest, at another resolution, on another grid: one linear map for each star.

    The map is that of all steps together, so that a missing pixel has no influence and the noise is carried exactly:
    its variance in ``flux_err``, and how neighbouring pixels are correlated from here on in ``flux_corr``,
    where that is over no more than `MOST_BAND` pixels: after broadening, give a grid as coarse as the resolution.

    Args:
        spectra: as a reader gives them.
        steps: what to do.

    Returns:
        The spectra; one at rest has ``rv`` 0 and its velocity in ``v_star``. Stars whose velocity is needed and not
        known are left out.

    Errors:
        HbcalError where the format knows no velocities, the resolution would rise, the wavelengths cannot be A, or the
        new grid and the spectra do not overlap.

    Example:
        >>> from hbcal.spectra.container import as_spectra
        >>> one = {"wave": [1.0, 2.0, 3.0], "flux": [[1.0, 3.0, 5.0]], "flux_err": [[0.3, 0.4, 0.5]], "star": ["a"]}
        >>> made = prepare(as_spectra(one, "one"), Steps(wave=np.array([1.5, 2.5])))
        >>> made.flux.tolist(), made.flux_err.round(3).tolist()
        ([[2.0, 4.0]], [[0.25, 0.32]])
    """
    return _prepared(spectra, steps)[0]


def _prepared(spectra: Spectra, steps: Steps) -> tuple[Spectra, bool]:
    """And whether noise goes together over more pixels than are kept."""
    wave = air_to_vacuum(spectra.wave) if steps.medium == "vacuum" else spectra.wave
    if steps.frame == "rest":
        spectra = _with_velocity(spectra)
    if steps.powers is None and steps.frame != "rest":
        if steps.wave is None:
            return replace(spectra, wave=wave), False
        rows = among(wave, steps.wave)
        # an emulator's grid may have holes, next to which pixels look broad
        if rows is not None and np.median(np.diff(rows)) == 1:
            return at(replace(spectra, wave=wave), steps.wave), False
    broaden = (
        csr_array(eye_array(len(wave)))
        if steps.powers is None
        else broadening_map(wave, width_between(wave, *steps.powers))
    )
    to = wave if steps.wave is None else steps.wave
    velocity = spectra.about("v_taken") if steps.frame == "rest" else np.zeros(len(spectra.star))
    flux, err = (np.full((len(spectra.star), len(to)), np.nan) for _ in range(2))
    n_old = np.flatnonzero((np.abs(spectra.flux_corr) > UNRELATED).any(axis=(0, 1))).max(initial=-1) + 1
    n_band = n_neighbours(csr_array(conserving_map(wave, to) @ broaden), int(n_old))
    n_band = n_band or (1 if steps.frame == "rest" else 0)  # where a shift is all
    too_wide = n_band > MOST_BAND
    n_band = 0 if too_wide else n_band
    corr = np.zeros((*flux.shape, n_band), np.float32)
    for v in np.unique(velocity):
        of = velocity == v
        total = csr_array(conserving_map(rest_frame(wave, float(v)), to) @ broaden)
        flux[of], _ = carry(total, spectra.flux[of], spectra.flux_err[of])
        err[of], corr[of] = carry_noise(total, spectra.flux_err[of], spectra.flux_corr[of, :, :n_old], n_band)
    if np.isfinite(spectra.flux).any() and not np.isfinite(flux).any():
        raise HbcalError(
            f"The new wavelengths, {to[0]:g} to {to[-1]:g}, do not meet those of the spectra, {wave[0]:g} to "
            f"{wave[-1]:g}: give both in one unit."
        )
    return _at_rest(replace(spectra, wave=to, flux=flux, flux_err=err, flux_corr=corr)), too_wide


def _with_velocity(spectra: Spectra) -> Spectra:
    """The stars with a velocity, which goes into a column of its own."""
    if "rv" not in spectra.meta_names:
        raise HbcalError(f"{_no_velocity(len(spectra.star), spectra.star)}, nor has their format.")
    velocity = spectra.about("rv")
    known = np.isfinite(velocity)
    taken = np.column_stack([spectra.meta, velocity])
    return replace(spectra, meta=taken, meta_names=(*spectra.meta_names, "v_taken")).take(known)


def _no_velocity(n: int, star: Iterable[str]) -> str:
    return f"{n} star(s) have no velocity 'rv' in meta ({some(star)}), which the rest frame needs"


def _at_rest(spectra: Spectra) -> Spectra:
    """Say in meta what was taken out."""
    if "v_taken" not in spectra.meta_names:
        return spectra
    meta, names = spectra.meta.copy(), list(spectra.meta_names)
    meta[:, names.index("rv")] = 0.0
    if "v_star" in names:  # the survey had done it already, and rv was what was left
        meta[:, names.index("v_star")] += meta[:, -1]
        return replace(spectra, meta=meta[:, :-1], meta_names=tuple(names[:-1]))
    return replace(spectra, meta=meta, meta_names=(*names[:-1], "v_star"))


def convert(
    files: Sequence[Path],
    out: Path,
    form: str | None = None,
    steps: Steps = Steps(),
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[int, int, int]:
    """Read spectra of any format and write them to the plain container.

    Args:
        files: paths.
        out: ``.npz``, ``.h5``, ``.hdf5`` or ``.zarr``; HDF5 and Zarr are written piece by piece, whatever the number of
            stars.
        form: the format of all files; each is detected by default.
        steps: what to do on the way.
        progress: takes a line now and then.

    Returns:
        The number of stars written, the number left out because they have no velocity, and of how many the noise goes
        together over more than `MOST_BAND` pixels, which the file does not say.

    Errors:
        HbcalError for whatever a reader, a step or the writer refuses; nothing is written then.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "one.npz"
        ...     np.savez(path, wave=[1.0, 2.0], flux=np.ones((1, 2)), flux_err=np.ones((1, 2)), star=[7])
        ...     convert([path], Path(folder) / "one.h5")
        (1, 0, 0)
    """
    counts = [0, 0, 0]

    def pieces() -> Iterator[tuple[str, Spectra]]:
        for file, piece in iter_any(files, form):
            made, too_wide = _prepared(piece, steps)
            counts[0] += len(piece.star)
            counts[1] += len(made.star)
            counts[2] += len(made.star) * too_wide
            progress(f"read {counts[0]} star(s), now {file}")
            if len(made.star):
                yield file, made
        if counts[1] == 0:
            raise HbcalError(f"{_no_velocity(counts[0], piece.star)}.")

    n = write_spectra(agreeing(pieces()), out)
    return n, counts[0] - n, counts[2]


def wave_of(path: Path) -> np.ndarray:
    """The wavelengths of a file of spectra of any format, or of an emulator.

    Args:
        path: the file, or the emulator's folder.

    Returns:
        Its wavelengths, (n_pix,).

    Errors:
        HbcalError for what its reader refuses.

    Example:
        >>> wave_of(Path("absent.npz"))
        Traceback (most recent call last):
        hbcal._errors.HbcalError: absent.npz: there is no such file of spectra.
    """
    if (path / MODEL).is_file():
        return np.asarray(load_emulator(path).known.wave)
    for _, piece in iter_any([path]):
        return piece.wave
    raise HbcalError(f"{path} holds no star.")
