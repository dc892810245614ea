"""Which pixels of spectra take part: some wavelengths, those that most stars have, those of another grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hbcal._errors import HbcalError
from hbcal.spectra.container import Spectra
from hbcal.spectra.neighbours import between


def _only(spectra: Spectra, pixels: np.ndarray) -> Spectra:
    rows = np.flatnonzero(pixels) if pixels.dtype == bool else pixels
    corr = between(spectra.flux_corr, rows)
    return replace(
        spectra, wave=spectra.wave[rows], flux=spectra.flux[:, rows], flux_err=spectra.flux_err[:, rows], flux_corr=corr
    )


def within(spectra: Spectra, ranges: Sequence[tuple[float, float]]) -> Spectra:
    """The pixels whose wavelengths lie in one of some ranges.

    Args:
        spectra: any.
        ranges: pairs (low, high), both within, in the unit of the wavelengths.

    Returns:
        The spectra, of these pixels.

    Errors:
        HbcalError for a range that does not increase or in which there is no pixel, or where they hold fewer than two.

    Example:
        >>> one = np.ones((1, 50))
        >>> seen = Spectra(np.arange(50.0), one, one, np.array(["a"]), one[:, :0], one[:, :0], ())
        >>> within(seen, [(3, 4), (40, 60)]).wave[:3].tolist()
        [3.0, 4.0, 40.0]
    """
    keep = np.zeros(len(spectra.wave), bool)
    for low, high in ranges:
        if not low < high:
            raise HbcalError(f"The wavelengths {low:g} to {high:g} do not increase: give LOW,HIGH.")
        inside = (spectra.wave >= low) & (spectra.wave <= high)
        if not inside.any():
            raise HbcalError(
                f"No pixel is between the wavelengths {low:g} and {high:g}: the spectra reach from {spectra.wave[0]:g} "
                f"to {spectra.wave[-1]:g}."
            )
        keep |= inside
    if keep.sum() < 2:
        raise HbcalError(f"Only {int(keep.sum())} pixel is within the wavelengths asked for: give wider ranges.")
    return _only(spectra, keep)


def mostly_there(spectra: Spectra, share: float) -> tuple[Spectra, int]:
    """The pixels that enough of the stars have.

    Args:
        spectra: any.
        share: of the stars with a pixel at all and, where there are labels, with one, at least.

    Returns:
        The spectra, of these pixels; how many others there were. All pixels where hardly one is left.

    Errors:
        None.

    Example:
        >>> flux = np.array([[1.0, 1.0, np.nan], [1.0, 1.0, 1.0]])
        >>> seen = Spectra(np.arange(3.0), flux, flux, np.array(["a", "b"]), flux[:, :0], flux[:, :0], ())
        >>> mostly_there(seen, 0.9)[0].wave.tolist()
        [0.0, 1.0]
    """
    there, told = np.isfinite(spectra.flux), np.isfinite(spectra.labels)
    counts = there.any(axis=1) & (told.any(axis=1) | (told.shape[1] == 0))
    keep = there[counts].sum(axis=0) >= share * counts.sum()
    if keep.all() or keep.sum() < 2:
        return spectra, 0
    return _only(spectra, keep), int((~keep).sum())


def among(have: np.ndarray, wave: np.ndarray) -> np.ndarray | None:
    """Which of some wavelengths are others.

    Args:
        have: (n,), increasing.
        wave: (n_pix,), increasing.

    Returns:
        Their indices, (n_pix,); None where one of them is not there, to a millionth.

    Errors:
        None.

    Example:
        >>> among(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0])).tolist()
        [0, 2]
    """
    after = np.clip(np.searchsorted(have, wave), 1, len(have) - 1)
    nearest: np.ndarray = after - (wave - have[after - 1] < have[after] - wave)
    alike = len(np.unique(nearest)) == len(wave) and np.allclose(have[nearest], wave, rtol=1e-6, atol=0.0)
    return nearest if alike else None


def at(spectra: Spectra, wave: np.ndarray) -> Spectra:
    """The pixels at some wavelengths, as they are: nothing is interpolated.

    Args:
        spectra: any.
        wave: (n_pix,), increasing.

    Returns:
        The spectra at these wavelengths.

    Errors:
        HbcalError where there is none of them among the spectra's, to a millionth.

    Example:
        >>> one = np.ones((1, 50))
        >>> seen = Spectra(np.arange(50.0), one, one, np.array(["a"]), one[:, :0], one[:, :0], ())
        >>> at(seen, np.array([7.0, 9.0])).flux.shape
        (1, 2)
    """
    have, nearest = spectra.wave, among(spectra.wave, wave)
    if nearest is None:
        raise HbcalError(
            f"The spectra have {len(have)} pixels from {have[0]:g} to {have[-1]:g}, the emulator {len(wave)} from "
            f"{wave[0]:g} to {wave[-1]:g} that are not among them: resample them onto its grid with hbcal spectra "
            "convert --wave-from EMULATOR."
        )
    return spectra if len(wave) == len(have) else _only(spectra, nearest)
