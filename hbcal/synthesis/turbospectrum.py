"""Turbospectrum, the program: where it is, what it is told, and what it answers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hbcal._errors import HbcalError
from hbcal.synthesis.atmospheres import digest
from hbcal.synthesis.control import babsma_input, bsyn_input, check_window, composition_lines, n_pixels
from hbcal.synthesis.marcs import Atmosphere, mod_text

VARIABLE = "HBCAL_TURBOSPECTRUM"
PROGRAMS = ("babsma_lu", "bsyn_lu")
PLACES = ("", "bin", "exec-gf", "exec", "src/exec-gf", "src/exec")
DATA = (
    "DATA",
    "python/turbospectrum/data",
    "../DATA",
    "../python/turbospectrum/data",
    "../../python/turbospectrum/data",
)
TIMEOUT = 3600.0  # bsyn can loop for ever on a broken model


@dataclass(frozen=True)
class Turbospectrum:
    """The program's parts.

    Attributes:
        babsma, bsyn: the two executables, continuous opacities and spectrum.
        data: the folder it calls DATA: partition functions, molecular constants, hydrogen lines.
    """

    babsma: Path
    bsyn: Path
    data: Path

    @property
    def digest(self) -> str:
        """Fingerprint of the executables and of their data."""
        return digest([self.babsma, self.bsyn, *(path for path in self.data.iterdir() if path.is_file())])

    @property
    def versions(self) -> dict[str, str]:
        """What each executable calls its version, "unknown" where it does not say."""
        told = {}
        for path in (self.babsma, self.bsyn):
            done = subprocess.run([path], input="", capture_output=True, text=True, timeout=TIMEOUT, check=False)
            found = re.search(r"version\s+([\d.]+)", done.stdout)
            told[path.name] = found.group(1) if found else "unknown"
        return told


def find_turbospectrum(environment: Mapping[str, str] | None = None) -> Turbospectrum:
    """Find Turbospectrum: in the folder that HBCAL_TURBOSPECTRUM names, else on the PATH.

    Args:
        environment: variables; the process's by default.

    Returns:
        Its executables and data.

    Errors:
        HbcalError where it is not there, or has no data folder, or cannot be executed.

    Example:
        >>> find_turbospectrum({"HBCAL_TURBOSPECTRUM": "nowhere"})
        Traceback (most recent call last):
        hbcal._errors.HbcalError: There is no babsma_lu in the folder nowhere that HBCAL_TURBOSPECTRUM names: build ...
    """
    told = os.environ if environment is None else environment
    home = told.get(VARIABLE, "")
    how = "build Turbospectrum as docs/synthesis.md says"
    found: list[Path] = []
    for program in PROGRAMS:
        if home:
            paths = [path for place in PLACES if (path := Path(home) / place / program).is_file()]
            where = f"in the folder {home} that {VARIABLE} names"
        else:
            on_path = shutil.which(program, path=told.get("PATH", ""))
            paths, where = ([Path(on_path)] if on_path else []), f"on the PATH, and {VARIABLE} is not set"
        if not paths:
            raise HbcalError(f"There is no {program} {where}: {how}.")
        if not os.access(paths[0], os.X_OK):
            raise HbcalError(f"{paths[0]} cannot be executed: {how}.")
        found.append(paths[0].resolve())
    places = [*([Path(home)] if home else []), found[0].parent]
    data = [path for place in places for name in DATA if (path := place / name).is_dir()]
    if not data:
        raise HbcalError(
            f"Turbospectrum is at {found[0].parent} but no folder DATA is near: set {VARIABLE} to a folder with both."
        )
    return Turbospectrum(found[0], found[1], data[0].resolve())


def synthesize(
    program: Turbospectrum, atmosphere: Atmosphere, abundances: np.ndarray, vmicro: float,
    window: tuple[float, float, float], lines: Sequence[Path], folder: Path, *,
    geometry: str = "spherical", isotopes: Mapping[str, float] | None = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Compute one spectrum (LTE).

    Args:
        program: from `find_turbospectrum`.
        atmosphere: the model.
        abundances: (92,) of the lines, hydrogen at 12, dex.
        vmicro: microturbulence, km/s.
        window: lowest and highest wavelength and step, Angstrom (air).
        lines: files of line lists.
        folder: an empty folder to work in.
        geometry: "spherical" where the model is, or "plane_parallel" always.
        isotopes: fractions other than the Sun's.

    Returns:
        wave (n_pix), Angstrom (air), and the flux over the continuum (n_pix).

    Errors:
        HbcalError where a program fails, with the last line it wrote.

    Example:
        >>> nothing = Turbospectrum(Path("x"), Path("x"), Path("x"))
        >>> synthesize(nothing, None, None, 1.0, (2.0, 1.0, 0.1), [], Path("x"))
        Traceback (most recent call last):
        hbcal._errors.HbcalError: The window is [2, 1] with a step of 0.1: give low < high, and a step that fits.

    Source:
        Plez 2012, ASCL 1205.004; Gerber et al. 2023, A&A 669, A43.
    """
    check_window(window)
    (folder / "DATA").symlink_to(program.data)
    (folder / "model.mod").write_text(mod_text(atmosphere), encoding="ascii")
    for i, path in enumerate(lines):  # names in the input may be 256 characters at most: short links
        (folder / f"lines{i}").symlink_to(path.resolve())
    transfer = geometry if atmosphere.spherical else "plane_parallel"
    star = composition_lines(abundances, isotopes or {})
    names = [f"lines{i}" for i in range(len(lines))]
    _run(program.babsma, babsma_input("model.mod", "opac", window, star, vmicro), folder / "opac")
    _run(program.bsyn, bsyn_input("opac", "spectrum", window, star, names, transfer), folder / "spectrum")
    return read_spectrum(folder / "spectrum", window)


def read_spectrum(path: Path, window: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Read the spectrum that bsyn wrote.

    Args:
        path: text with wavelength, normalised flux, flux.
        window: what it was asked for; the wavelengths are taken from it, since the file rounds them.

    Returns:
        wave (n_pix), Angstrom, and flux over the continuum (n_pix).

    Errors:
        HbcalError where the file is not there, is cut off, or holds something else.

    Example:
        >>> read_spectrum(Path("nowhere"), (8460.0, 8700.0, 0.1))
        Traceback (most recent call last):
        hbcal._errors.HbcalError: Turbospectrum wrote no spectrum.
    """
    low, high, step = window
    if not path.is_file():
        raise HbcalError("Turbospectrum wrote no spectrum.")
    rows = [re.findall(r"[-+.\dEe]+|\*+|NaN", line) for line in path.read_text().splitlines()]
    try:
        table = np.array([[float(word) for word in row[:2]] for row in rows])
    except ValueError:
        raise HbcalError("Turbospectrum wrote numbers that are none: the model may be broken.") from None
    wave = low + step * np.arange(n_pixels(window))
    if (
        table.shape != (len(wave), 2)
        or np.abs(table[:, 0] - wave).max() > max(0.6 * step, 6e-4)
        or not np.isfinite(table).all()
    ):
        raise HbcalError(f"Turbospectrum wrote {len(table)} pixels instead of {len(wave)} from {low:g} to {high:g}.")
    return wave, table[:, 1]


def _run(program: Path, said: str, result: Path) -> None:
    """Run one of the programs; most errors end it with status 0 all the same, but without a result."""
    told = result.with_name(f"{program.name}.out")
    try:
        with told.open("w") as handle:
            done = subprocess.run(
                [program], input=said, text=True, stdout=handle, stderr=subprocess.PIPE, cwd=result.parent,
                timeout=TIMEOUT, check=False, errors="replace",
            )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise HbcalError(f"{program.name} did not end within {TIMEOUT:.0f} s.") from None
    if done.returncode or not result.is_file() or not result.stat().st_size:
        why = _complaint(done.stderr, told.read_text(errors="replace"))
        raise HbcalError(f"{program.name} ended with status {done.returncode} and no result, saying {why!r}.")


def _complaint(errors: str, output: str) -> str:
    """The line that says what went wrong: Fortran's own, or that of a STOP, or the last of all."""
    lines = [line.strip() for line in errors.splitlines()]
    marked = [line for line in lines if "runtime error" in line or line.startswith("STOP")]
    last = [line.strip() for line in output.splitlines() if line.strip()]
    return (marked or last[-1:] or ["nothing"])[0]
