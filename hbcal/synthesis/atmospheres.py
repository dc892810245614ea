"""A set of MARCS atmospheres: what it covers, and interpolation between its models."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hbcal._errors import HbcalError, some
from hbcal.synthesis.marcs import Atmosphere, read_mod, read_name

AXES = ("teff", "logg", "m_h", "alpha_m")
LOGARITHMIC = ("temperature", "p_e", "p_gas", "p_rad", "kappa_ross", "density", "rhox")


@dataclass(frozen=True)
class AtmosphereSet:
    """The models of a folder, by their labels.

    Attributes:
        files: (teff, logg, m_h, alpha_m) to file; two labels alone where the set has one [alpha/M] for each (teff,
            logg, m_h), which then follows [M/H] as the set has it.
        nodes: the values each axis takes, ascending.
    """

    files: Mapping[tuple[float, ...], Path]
    nodes: tuple[tuple[float, ...], ...]

    @property
    def axes(self) -> tuple[str, ...]:
        """The labels between which models are interpolated."""
        return AXES[: len(self.nodes)]


def open_atmospheres(folder: Path) -> AtmosphereSet:
    """Find the models of a folder, by their names.

    Models that differ in nothing but mass or microturbulence count once: the one with mass 1 (0 where plane-parallel),
    then with the microturbulence nearest to 2 km/s, is taken. Left out are names that end otherwise (``.mod.filled``),
    and models whose C, N, r or s elements are not the Sun's: [X/Fe] of the lines would not start from zero.

    Args:
        folder: with ``.mod`` or ``.mod.gz`` files, named as MARCS names them.

    Returns:
        The set.

    Errors:
        HbcalError where the folder is absent or has no such file, or where models of several compositions are mixed.

    Example:
        >>> open_atmospheres(Path("nowhere"))
        Traceback (most recent call last):
        hbcal._errors.HbcalError: There is no folder of atmospheres nowhere: see docs/synthesis.md for where ...
    """
    if not folder.is_dir():
        raise HbcalError(f"There is no folder of atmospheres {folder}: see docs/synthesis.md for where to get some.")
    named = [(said, path) for path in sorted(folder.iterdir()) if (said := read_name(path.name))]
    named = [(said, path) for said, path in named if not any(said[name] for name in ("c", "n", "r", "s"))]
    if not named:
        raise HbcalError(
            f"The folder of atmospheres {folder} has no file named like a MARCS model (p5750_g+4.5_m0.0_...mod): "
            "see docs/synthesis.md for where to get some."
        )
    kinds = sorted({str(said["composition"]) for said, _ in named})
    if len(kinds) > 1:
        raise HbcalError(
            f"The folder of atmospheres {folder} mixes models of the compositions {some(kinds)}: keep one in a folder."
        )
    best: dict[tuple[float, ...], tuple[tuple[float, float], Path]] = {}
    for said, path in named:
        key = tuple(float(said[name]) for name in AXES)
        rank = (abs(float(said["mass"]) - (said["geometry"] == "s")), abs(float(said["vmicro"]) - 2.0))
        if key not in best or rank < best[key][0]:
            best[key] = (rank, path)
    files = {key: path for key, (_, path) in best.items()}
    three = {key[:3]: path for key, path in files.items()}
    if len(three) == len(files):
        files = three
    return AtmosphereSet(files, tuple(tuple(sorted(set(values))) for values in zip(*files, strict=True)))


def corners(atmospheres: AtmosphereSet, labels: Mapping[str, float]) -> dict[tuple[float, ...], float] | None:
    """Find the models around a star, and their weights.

        weight of a corner = product over axes of u or 1 - u
        u = (x - x_low) / (x_high - x_low),   x = ln Teff, log g, [M/H], [alpha/M]

    Args:
        atmospheres: the set.
        labels: of the star, those of the set's axes at least.

    Returns:
        Labels of each model to its weight, which add up to 1; None where the star is outside the set or a model of
        its cell is missing.

    Errors:
        None.

    Example:
        >>> nodes = ((5000.0, 5500.0), (4.0, 4.5), (-0.5, 0.0))
        >>> grid = AtmosphereSet({key: Path("x.mod") for key in itertools.product(*nodes)}, nodes)
        >>> corners(grid, {"teff": 5000.0, "logg": 4.1, "m_h": 0.0})
        {(5000.0, 4.0, 0.0): 0.8, (5000.0, 4.5, 0.0): 0.2}
        >>> corners(grid, {"teff": 5600.0, "logg": 4.1, "m_h": 0.0}) is None
        True
    """
    sides = []
    for name, nodes in zip(atmospheres.axes, atmospheres.nodes, strict=True):
        x, grid = labels[name], np.asarray(nodes)
        if not grid[0] <= x <= grid[-1]:
            return None
        if x in nodes:
            sides.append([(float(x), 1.0)])
            continue
        above = int(np.searchsorted(grid, x))
        low, high = nodes[above - 1], nodes[above]
        share = np.log(x / low) / np.log(high / low) if name == "teff" else (x - low) / (high - low)
        sides.append([(low, 1.0 - share), (high, share)])
    found = {}
    for corner in itertools.product(*sides):
        key = tuple(value for value, _ in corner)
        if key not in atmospheres.files:
            return None
        found[key] = round(float(np.prod([weight for _, weight in corner])), 12)
    return found


def interpolate(atmospheres: AtmosphereSet, labels: Mapping[str, float]) -> Atmosphere:
    """Interpolate the structure between the models around a star, at fixed Rosseland optical depth.

        q(tau) = sum_c weight_c q_c(tau),   with ln q instead of q for temperature, pressures, density, opacity and mass

    linear in ln Teff, log g, [M/H] (and [alpha/M]). Where one of the models is plane-parallel, so is the result.

    Args:
        atmospheres: the set.
        labels: teff, logg, m_h, alpha_m of the star.

    Returns:
        The atmosphere; its m_h and alpha_m are those of its structure, and its abundances go with them.

    Errors:
        HbcalError where the star is outside the set, or its models have different optical depths.

    Example:
        >>> interpolate(AtmosphereSet({}, ((5e3,), (4.0,), (0.0,))), {"teff": 5e3, "logg": 4.0, "m_h": 0.0})
        Traceback (most recent call last):
        hbcal._errors.HbcalError: The atmospheres have no model around teff = 5000, logg = 4, m_h = 0: drop the star.
    """
    around = corners(atmospheres, labels)
    if around is None:
        told = ", ".join(f"{name} = {labels[name]:g}" for name in atmospheres.axes)
        raise HbcalError(f"The atmospheres have no model around {told}: drop the star.")
    weights = np.array(list(around.values()))
    models = [read_mod(atmospheres.files[key]) for key in around]
    if len({tuple(model.layers["lg_tau_ross"]) for model in models}) > 1:
        names = some(atmospheres.files[key].name for key in around)
        raise HbcalError(f"The models {names} have different optical depths: take all from one MARCS grid.")
    layers = {}
    for name in models[0].layers:
        values = np.stack([model.layers[name] for model in models])
        positive = name in LOGARITHMIC and bool((values > 0).all())
        layers[name] = np.exp(weights @ np.log(values)) if positive else weights @ values
    flat = not all(model.spherical for model in models)
    logg = float(weights @ [model.logg for model in models])
    return Atmosphere(
        teff=float(np.exp(weights @ np.log([model.teff for model in models]))),
        logg=logg,
        m_h=float(weights @ [model.m_h for model in models]),
        alpha_m=float(weights @ [model.alpha_m for model in models]),
        vmicro=float(weights @ [model.vmicro for model in models]),
        radius=1.0 if flat else float(np.exp(weights @ np.log([model.radius for model in models]))),
        abundances=weights @ np.stack([model.abundances for model in models]),
        layers=layers,
    )


def digest(files: Sequence[Path]) -> str:
    """Fingerprint of some files: their names and what is in them, whatever their order.

    Args:
        files: paths.

    Returns:
        A SHA-256 in hexadecimal.

    Errors:
        OSError for a file that cannot be read.

    Example:
        >>> digest([])[:8]
        'e3b0c442'
    """
    whole = hashlib.sha256()
    for path in sorted(files, key=lambda path: path.name):
        whole.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()
