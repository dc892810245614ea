"""The Sun by Turbospectrum against GALAH's spectrum of Vesta: what is left after velocity, broadening and continuum.

    python benchmarks/synthesis_vesta.py SUN_1.npz SUN_2.npz SUN_3.npz SUN_4.npz

Each file is one arm, made by `hbcal synthesize` as docs/synthesis.md shows; Vesta is read from HBCAL_TEST_DATA.
"""

import os
import sys
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from hbcal.spectra.container import read_spectra
from hbcal.synthesis.broaden import broaden

C, VESTA, ORDER, EDGE = 299_792.458, 5, 5, 60
COMMON = 11_500.0  # the resolving power of Gaia RVS
TELLURIC = ((6860.0, 6960.0), (7590.0, 7700.0))  # the B and A bands of oxygen


def compare(data, arm, model_file):
    """Fit velocity (with a slope along the arm), resolving power and a polynomial continuum; print what is left."""
    wave = data[f"ccd{arm}_wave_A"][VESTA]
    flux = data[f"ccd{arm}_normalized"][VESTA].astype(float)
    sun = read_spectra([Path(model_file)], labels=True)
    x = np.linspace(-1, 1, len(wave))
    use = (np.abs(x) < 1 - 2 * EDGE / len(wave)) & (wave > sun.wave[0] + 3) & (wave < sun.wave[-1] - 3)
    for low, high in TELLURIC:
        use &= (wave < low) | (wave > high)

    def fit(parameters):
        velocity, slope, resolution = parameters[0], parameters[1], 1e4 * parameters[2]
        at_rest = wave * (1 - (velocity + slope * x) / C)
        model = np.interp(at_rest, sun.wave, broaden(sun.wave, sun.flux[0], resolution))
        basis = np.polynomial.legendre.legvander(x, ORDER) * model[:, None]
        keep = use
        for _ in range(3):  # lines that the model lacks must not pull the continuum
            left = flux - basis @ np.linalg.lstsq(basis[keep], flux[keep], rcond=None)[0]
            keep = use & (np.abs(left) < 3 * 1.4826 * np.median(np.abs(left[use])))
        continuum = (flux - left) / model
        return flux / continuum, model

    def residual(parameters):
        observed, model = fit(parameters)
        return (observed - model)[use]

    start = min((np.std(residual((v, 0.0, 2.5))), v) for v in np.arange(-60.0, 61.0, 2.0))[1]
    found = least_squares(residual, [start, 0.0, 2.5], diff_step=1e-3, loss="soft_l1", f_scale=0.01).x
    observed, model = fit(found)
    smooth = (COMMON**-2 - (1e4 * found[2]) ** -2) ** -0.5
    print(f"arm {arm} {wave[use][0]:.0f}-{wave[use][-1]:.0f}: velocity {found[0]:.2f} km/s, R {1e4 * found[2]:.0f}")
    for name, (seen, made) in {
        "as observed": (observed, model),
        f"at R = {COMMON:.0f}": tuple(broaden(wave, each, smooth) for each in (observed, model)),
    }.items():
        left = (seen - made)[use]
        robust = 1.4826 * np.median(np.abs(left - np.median(left)))
        r = np.corrcoef(seen[use], made[use])[0, 1]
        print(f"    {name}: r {r:.4f}, rms {left.std():.4f}, robust sd {robust:.4f}")


if __name__ == "__main__":
    folder = Path(os.environ.get("HBCAL_TEST_DATA", "../shared/data")) / "spectra"
    with np.load(folder / "galah_six_stars.npz") as galah:
        for number, file in enumerate(sys.argv[1:], 1):
            compare(galah, number, file)
