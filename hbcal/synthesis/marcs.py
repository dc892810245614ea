"""MARCS model atmospheres, one ``.mod`` file: read, write, and what its name says."""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hbcal._errors import HbcalError
from hbcal.synthesis.abundances import ELEMENTS

COLUMNS = ("lg_tau_ross", "lg_tau_5000", "depth", "temperature", "p_e", "p_gas", "p_rad", "p_turb")
MORE = ("kappa_ross", "density", "mu", "v_conv", "f_conv", "rhox")
SCALED = ("m_h", "alpha_m", "c", "n", "o", "r", "s")
NAME = re.compile(
    r"(?P<geometry>[sp])(?P<teff>\d+)_g(?P<logg>[+-]\d\.\d+)_m(?P<mass>\d+\.\d+)_t(?P<vmicro>\d+)_(?P<composition>\w+)_"
    + "_".join(rf"{letter}(?P<{name}>[+-]\d\.\d\d)" for letter, name in zip("zacnors", SCALED, strict=True))
)
ENDINGS = (".mod", ".mod.gz")


@dataclass(frozen=True)
class Atmosphere:
    """One model atmosphere.

    Attributes:
        teff: K.
        logg: log10 of cm/s2.
        m_h, alpha_m: of the composition its structure was computed with, dex.
        vmicro: of its opacities, km/s.
        radius: at Rosseland depth one, cm; 1 in a plane-parallel model.
        abundances: (92,) logarithmic number abundances, hydrogen at 12, dex.
        layers: name to (n_layer,): `COLUMNS` and `MORE`, in the units of the files (cgs, K, cm).
    """

    teff: float
    logg: float
    m_h: float
    alpha_m: float
    vmicro: float
    radius: float
    abundances: np.ndarray
    layers: Mapping[str, np.ndarray]

    @property
    def spherical(self) -> bool:
        """Whether the model knows its radius."""
        return self.radius > 1.0


def read_name(name: str, endings: Sequence[str] = ENDINGS) -> dict[str, str | float] | None:
    """Read what the name of a MARCS file says.

    Args:
        name: such as ``p5750_g+4.5_m0.0_t01_st_z+0.00_a+0.00_c+0.00_n+0.00_o+0.00_r+0.00_s+0.00.mod``.
        endings: which endings a name may have.

    Returns:
        geometry ("s" or "p"), composition, teff, logg, mass, vmicro, m_h, alpha_m, c, n, o, r, s; None where the name
        is not of this form.

    Errors:
        None.

    Example:
        >>> said = read_name("s4500_g+2.0_m1.0_t02_st_z-0.50_a+0.20_c+0.00_n+0.00_o+0.20_r+0.00_s+0.00.mod")
        >>> said["teff"], said["logg"], said["m_h"], said["alpha_m"], said["composition"]
        (4500.0, 2.0, -0.5, 0.2, 'st')
        >>> read_name("thesis.mod") is None
        True
    """
    found = NAME.match(name)
    if found is None or name[found.end() :] not in endings:
        return None
    return {k: v if k in ("geometry", "composition") else float(v) for k, v in found.groupdict().items()}


def read_mod(path: Path) -> Atmosphere:
    """Read a ``.mod`` file, compressed or not.

    Args:
        path: ends in ``.mod`` or ``.mod.gz``.

    Returns:
        The atmosphere.

    Errors:
        HbcalError for a file that is absent, truncated, or not of the format.

    Example:
        >>> read_mod(Path("nowhere.mod"))
        Traceback (most recent call last):
        hbcal._errors.HbcalError: There is no model atmosphere nowhere.mod: check the folder of atmospheres.

    Source:
        Gustafsson et al. 2008, A&A 486, 951, and the description of the files on the MARCS site.
    """
    if not path.is_file():
        raise HbcalError(f"There is no model atmosphere {path}: check the folder of atmospheres.")
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("ascii")
        return _parse(text.splitlines())
    except (EOFError, OSError, ValueError, LookupError) as error:  # LookupError: a line or a number short
        raise HbcalError(
            f"{path} cannot be read as a MARCS model ({error}): it may be truncated; get it again."
        ) from None


def _parse(lines: list[str]) -> Atmosphere:
    """The text of a ``.mod`` file."""
    header = {key: _line(lines, key).split() for key in ("Teff", "Surface gravity", "Microturb", "Metallicity")}
    at = next(i for i, line in enumerate(lines) if line.startswith("Logarithmic chemical number"))
    n_element = len(ELEMENTS)
    numbers: list[float] = []
    for line in lines[at + 1 :]:
        if len(numbers) >= n_element:
            break
        numbers += map(float, line.split())
    n_layer = int(_line(lines, "Number of depth points").split()[0])
    at = lines.index("Model structure") + 2
    first = _table(lines[at : at + n_layer], n_layer, len(COLUMNS) + 1)
    second = _table(lines[at + n_layer + 1 : at + 2 * n_layer + 1], n_layer, len(MORE) + 2)
    layers = dict(zip(COLUMNS, first[:, 1:].T, strict=True)) | dict(zip(MORE, second[:, 2:].T, strict=True))
    return Atmosphere(
        teff=float(header["Teff"][0]),
        logg=round(float(np.log10(float(header["Surface gravity"][0]))), 3),
        m_h=float(header["Metallicity"][0]),
        alpha_m=float(header["Metallicity"][1]),
        vmicro=float(header["Microturb"][0]),
        radius=float(_line(lines, "adius").split()[0]),
        abundances=np.array(numbers[:n_element]),
        layers=layers,
    )


def _line(lines: list[str], word: str) -> str:
    """The first line with a word."""
    found = next((line for line in lines if word in line), None)
    if found is None:
        raise ValueError(f"no line says {word!r}")
    return found


def _table(lines: list[str], n_row: int, n_column: int) -> np.ndarray:
    """Numbers of a block of lines, (n_row, n_column); the last column of the second table may be absent."""
    rows = [[float(word) for word in line.split()] for line in lines]
    if len(rows) != n_row or any(len(row) != n_column for row in rows):
        raise ValueError(f"a table has not {n_row} rows of {n_column} numbers")
    return np.array(rows)


def mod_text(model: Atmosphere) -> str:
    """Write a model as the text of a ``.mod`` file, without the partial pressures, which Turbospectrum computes anew.

    Args:
        model: an atmosphere.

    Returns:
        The file's text.

    Errors:
        None.

    Example:
        >>> layers = {name: np.full(2, 0.5) for name in (*COLUMNS, *MORE)}
        >>> model = Atmosphere(5777.0, 4.44, 0.0, 0.0, 1.0, 1.0, np.full(92, 5.0), layers)
        >>> mod_text(model).splitlines()[1]
        '  5777.      Teff [K]'
    """
    kind = "s" if model.spherical else "p"
    numbers = [f"{value:7.2f}" for value in model.abundances]
    lines = [
        f"{kind}{model.teff:.0f}_g{model.logg:+.2f}_z{model.m_h:+.2f}_a{model.alpha_m:+.2f} interpolated by hbcal",
        f"{model.teff:7.0f}.      Teff [K]".removeprefix(" "),
        f"{5.6704e-5 * model.teff**4:12.4E} Flux [erg/cm2/s]",
        f"{10**model.logg:12.4E} Surface gravity [cm/s2]",
        f"{model.vmicro:5.1f}        Microturbulence parameter [km/s]",
        "  0.0        Mass [Msun]: not kept",
        f"{model.m_h:+6.2f}{model.alpha_m:+6.2f} Metallicity [Fe/H] and [alpha/Fe]",
        f"{model.radius:12.4E} "
        + ("Radius [cm] at Tau(Rosseland)=1.0" if model.spherical else "1 cm radius for plane-parallel models"),
        "Logarithmic chemical number abundances, H always 12.00",
        *("".join(numbers[i : i + 10]) for i in range(0, len(numbers), 10)),
        f"{len(model.layers['depth']):4d} Number of depth points",
        "Model structure",
        " k lgTauR  lgTau5    Depth     T        Pe          Pg         Prad       Pturb",
    ]
    first, second = ([model.layers[name] for name in names] for names in (COLUMNS, MORE))
    for k, (tau, tau5, depth, t, *pressures) in enumerate(zip(*first, strict=True), 1):
        lines.append(f"{k:3d}{tau:6.2f}{tau5:8.4f}{depth:11.3E}{t:8.1f}" + "".join(f"{p:12.4E}" for p in pressures))
    lines.append(" k lgTauR    KappaRoss   Density   Mu      Vconv   Fconv/F      RHOX")
    for k, (tau, kappa, rho, mu, v, f, rhox) in enumerate(zip(first[0], *second, strict=True), 1):
        lines.append(f"{k:3d}{tau:6.2f}{kappa:12.4E}{rho:12.4E}{mu:6.3f}{v:11.3E}{f:8.5f}{rhox:14.6E}")
    return "\n".join(lines) + "\n"
