"""How much of a spectrum's error comes from interpolating its atmosphere: models predicted from their neighbours.

    python benchmarks/synthesis_interpolation.py MARCS_FOLDER LINE_LIST

Each model is left out and interpolated from the corners of the cell twice as wide in Teff, log g and [M/H] around it;
what is left is compared in temperature and in the spectrum. Such errors grow with the square of the cell, and a
star in the middle of a real cell is half as far from its corners: expect a quarter.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from hbcal.synthesis.abundances import mixture, solar_scale
from hbcal.synthesis.atmospheres import AtmosphereSet, interpolate, open_atmospheres
from hbcal.synthesis.relations import holtzman2018
from hbcal.synthesis.turbospectrum import find_turbospectrum, synthesize

MODELS = ((5500.0, 4.0, -0.5), (6500.0, 4.5, -1.0), (4500.0, 2.0, 0.0), (4250.0, 1.5, -1.5), (5000.0, 3.0, 0.25))
WINDOW = (8460.0, 8700.0, 0.1)


def without(atmospheres, model):
    """The set without the planes that the model lies in."""
    nodes = tuple(tuple(x for x in axis if x != value) for axis, value in zip(atmospheres.nodes, model, strict=True))
    files = {
        key: path for key, path in atmospheres.files.items() if all(k in n for k, n in zip(key, nodes, strict=True))
    }
    return AtmosphereSet(files, nodes)


def main(folder, line_list):
    program, whole = find_turbospectrum(), open_atmospheres(Path(folder))
    lines = [Path(line_list), program.data / "Hlinedata"]
    for model in MODELS:
        star = dict(zip(("teff", "logg", "m_h"), model, strict=True))
        fluxes, temperatures = [], []
        for atmospheres in (whole, without(whole, model)):
            atmosphere = interpolate(atmospheres, star)
            sun = solar_scale(atmosphere.abundances, atmosphere.m_h, atmosphere.alpha_m)
            with tempfile.TemporaryDirectory() as work:
                vmicro = holtzman2018(star["logg"])
                _, flux = synthesize(
                    program, atmosphere, mixture(sun, star["m_h"], 0.0, {}), vmicro, WINDOW, lines, Path(work),
                    geometry="plane_parallel",
                )  # fmt: skip
            fluxes.append(flux)
            temperatures.append(atmosphere.layers["temperature"])
        deep = np.abs(whole_tau(whole, star)) < 3
        kelvin = (temperatures[1] - temperatures[0])[deep]
        left = fluxes[1] - fluxes[0]
        print(
            f"{model}: temperature, |lg tau| < 3: rms {kelvin.std():.1f} K, largest {np.abs(kelvin).max():.1f} K; "
            f"flux: rms {left.std():.5f}, largest {np.abs(left).max():.5f}"
        )


def whole_tau(atmospheres, star):
    """Rosseland depths of a model."""
    return interpolate(atmospheres, star).layers["lg_tau_ross"]


if __name__ == "__main__":
    main(*sys.argv[1:])
