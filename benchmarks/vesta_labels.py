"""Labels of the Sun from GALAH's spectrum of Vesta and synthetic spectra: do 95% regions hold the Sun's?

    python benchmarks/vesta_labels.py [SYNTHETIC.npz ...] [--method quadratic|process]

Without files: the 6480-6735 A window of the shared Turbospectrum spectra; quadratic: three labels of the stars within
BOX, process: eleven labels of them all. Each file is one of `hbcal synthesize` in the window of one of GALAH's arms.
Spectra are brought to R = 28,000 and Vesta's pixels in its frame at rest (the pipeline's velocity); a continuum, a
velocity and a broadening are left to be integrated out.

Theory is off by more than noise. Its misfit is taken from Vesta's own residuals at Vesta's own best labels, never from
the Sun's: their mean square in bins of line depth, times how many neighbouring pixels go wrong together (1 + 2 sum of
the autocorrelation), is added to each pixel's variance; pixels off by more than 5 robust sd are left out; then again.
What all lines get wrong together (one-dimensional LTE, damping, the resolution's shape) is not in it: it looks like
labels. How much so, three other stars of GALAH say, labelled in the same way: the mean square of what they are off from
GALAH's own labels is added to Vesta's variances, and regions are those of Student's t, since three stars are few. The
Sun's labels have no part in it.
"""

import argparse
import os
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from scipy.stats import chi2, f, t

from hbcal import label as job
from hbcal.emulator.nuisances import Nuisances, _Mover, with_nuisances
from hbcal.label import label_spectra
from hbcal.numerics.wavelength import SPEED_OF_LIGHT
from hbcal.spectra.container import Spectra, read_spectra
from hbcal.synthesis.broaden import broaden
from hbcal.training import train_emulator

RESOLUTION, ROUNDS, VESTA = 28_000.0, 4, 5
OTHERS = {"teff": "teff_r", "logg": "logg_r", "fe_h": "fe_h_r"}  # GALAH's names
NARROW = (0, 1, 4)  # of GALAH's six: two giants and a dwarf; the others' lines are broad
SUN = {"teff": 5772.0, "logg": 4.438, "fe_h": 0.0, "vmicro": 1.0}
BOX = {"teff": (4500.0, 6800.0), "logg": (3.0, 5.0), "fe_h": (-1.2, 1.0)}
WHAT = Nuisances(continuum=4, continuum_sd=0.1, velocity=2.0, broadening=5.0)
FOLDER = Path(os.environ.get("HBCAL_TEST_DATA", "../shared/data")) / "spectra"


def shared(method):
    """Wave, flux, labels and their names of the shared spectra: within BOX, or all of them."""
    with np.load(FOLDER / "synthetic_turbospectrum_rvs_galah.npz") as data:
        names = [{"feh": "fe_h"}.get(str(name), str(name)) for name in data["label_names"]]
        told = list(BOX) if method == "quadratic" else [name for name in names if name not in ("alpha", "vmicro")]
        labels = data["labels"][:, [names.index(name) for name in told]]
        inside = np.all(
            [(labels[:, l] > low) & (labels[:, l] < high) for l, (low, high) in enumerate(BOX.values())], axis=0
        )
        inside |= method == "process"
        flux = data["galahred_flux_u16"][inside] / float(data["scale"])
        return data["galahred_wave_A"], flux, labels[inside], tuple(told)


def observed(window, which):
    """One of GALAH's stars at rest, as Spectra, in the arm that overlaps a window, and its labels there."""
    with np.load(FOLDER / "galah_six_stars.npz") as data:
        arm = next(a for a in range(1, 5) if window[0] < np.median(data[f"ccd{a}_wave_A"][which]) < window[1])
        known = dict(zip(data["label_names"].tolist(), data["labels"][which], strict=True))
        wave = data[f"ccd{arm}_wave_A"][which] / (1.0 + known["rv_com"] / SPEED_OF_LIGHT)
        flux = data[f"ccd{arm}_normalized"][which].astype(float)
        err = np.abs(flux) * data[f"ccd{arm}_relative_error"][which]
    bad = ~(err > 0) | (np.minimum(np.arange(len(wave)), np.arange(len(wave))[::-1]) < 60)
    err[bad] = np.nan
    none = np.empty((1, 0))
    return (
        Spectra(wave, np.where(bad, np.nan, flux)[None], err[None], np.array([str(which)]), none, none, ()),
        arm,
        known,
    )


def at_pixels(wave, flux, labels, names, pixels):
    """Synthetic spectra as GALAH would see them, without noise."""
    seen = np.array([np.interp(pixels, wave, each, np.nan, np.nan) for each in broaden(wave, flux, RESOLUTION)])
    ids = np.array([f"s{i}" for i in range(len(seen))])
    return Spectra(pixels, seen, np.where(np.isfinite(seen), 2e-4, np.nan), ids, labels, np.zeros_like(labels), names)


def residual(emulator, star, found):
    """Spectrum minus model at the posterior's mean, and the model's depth below its continuum."""
    moving = with_nuisances(emulator, WHAT)
    mover = _Mover(moving, star.flux, star.flux_err)
    c = found["nuisance_value"].to_numpy()[0]
    x = (found["value"].to_numpy()[0] - emulator.known.centre) / emulator.known.unit
    n = emulator.layer.weights.shape[1]
    model = mover.columns(c, x)[:, :n] @ np.asarray(emulator.features.of(jnp.asarray(x)))
    level = 1.0 + mover.tilts @ c[: mover.tilts.shape[1]]
    return mover.flux[0] - model, np.clip(1.0 - model / level, 0.0, 1.0)


def misfit(left, depth):
    """Variance of theory's error at each pixel, pixels to leave out, and how many pixels go wrong together."""
    ok = np.isfinite(left)
    robust = 1.4826 * np.median(np.abs(left[ok] - np.median(left[ok])))
    far = ok & (np.abs(left) > 5.0 * np.maximum(robust, 0.0))
    ok &= ~far
    edges = np.quantile(depth[ok], np.linspace(0, 1, 9))
    which = np.clip(np.searchsorted(edges, depth) - 1, 0, 7)
    var = np.array([np.mean(left[ok & (which == k)] ** 2) for k in range(8)])[which]
    z = np.where(ok, left / np.sqrt(var), 0.0)
    n_lag = 40
    rho = np.array([(z[k:] * z[: len(z) - k]).sum() for k in range(n_lag)]) / (z**2).sum()
    stop = int(np.argmax(rho < 0.05)) if (rho < 0.05).any() else n_lag
    together = 1.0 + 2.0 * rho[1:stop].sum()
    return var * together, far, together


def understood(emulator, star):
    """Labels of a star with nuisances and theory's misfit, and a sentence about that."""
    found = label_spectra(emulator, star, fast=True, nuisances=WHAT)
    seen, theory = star, emulator
    for _ in range(ROUNDS):
        left, depth = residual(theory, star, found)
        extra, far, together = misfit(left, depth)
        seen = replace(star, flux=np.where(far, np.nan, star.flux[0])[None])
        layer = replace(emulator.layer, scatter=np.asarray(emulator.layer.scatter) + np.nan_to_num(extra))
        theory = replace(emulator, layer=layer)
        found = label_spectra(theory, seen, fast=True, nuisances=WHAT)
    size = np.sqrt(np.median(extra / together))
    return found, f"misfit: {size:.4f}, {together:.1f} pixels together, {int(far.sum())} pixels left out"


def off_by(emulator, window, pixels):
    """Labels of other stars less GALAH's own, in the labels' order; 0 for labels that GALAH's does not have."""
    out = []
    for which in NARROW:
        star, _, known = observed(window, which)
        moved = {name: np.interp(pixels, star.wave, getattr(star, name)[0])[None] for name in ("flux", "flux_err")}
        found, said = understood(emulator, replace(star, wave=pixels, **moved))
        names, value = found["label"].to_numpy().tolist(), found["value"].to_numpy()[0]
        out.append([value[l] - known[OTHERS[name]] if name in OTHERS else 0.0 for l, name in enumerate(names)])
        told = ", ".join(f"{n} {v:.2f} ({off:+.2f})" for n, v, off in zip(names, value, out[-1], strict=True) if off)
        print(f"  another star, less GALAH's labels: {told}; {said}", flush=True)
    return np.array(out)


def tell(title, found, extra=None):
    """Labels, 95% intervals, and whether the Sun's are inside; `extra`: variances known from three stars."""
    names = [str(name) for name in found["label"].to_numpy()]
    mean, cov = found["value"].to_numpy()[0], found["covariance"].to_numpy()[0]
    one, p = 1.96, len(names)
    joint = chi2.ppf(0.95, p)
    if extra is not None:
        cov, one, joint = cov + np.diag(extra), t.ppf(0.975, len(NARROW)), p * f.ppf(0.95, p, len(NARROW))
    sd, sun = np.sqrt(np.diag(cov)), np.array([SUN.get(name, 0.0) for name in names])
    print(
        f"  {title}: chi2 per pixel {found['chi2'].to_numpy()[0]:.2f}, flagged: {found['reason'].to_numpy()[0] or 'no'}"
    )
    for l, name in enumerate(names):
        low, high = mean[l] - one * sd[l], mean[l] + one * sd[l]
        inside = "inside" if low < sun[l] < high else "OUTSIDE"
        print(f"    {name}: {mean[l]:.3f} [{low:.3f}, {high:.3f}], the Sun {sun[l]:g} {inside}")
    away = float((mean - sun) @ np.linalg.solve(cov, mean - sun))
    print(f"    together: {away:.1f} (95% of {joint:.1f}): {'inside' if away < joint else 'OUTSIDE'}", flush=True)


def main(files, method):
    job.BATCH = job.AGAIN  # one star at a time needs no room for more
    made = [(*[getattr(s, k) for k in ("wave", "flux", "labels", "label_names")],) for s in
            (read_spectra([Path(file)], labels=True) for file in files)] or [shared(method)]  # fmt: skip
    for wave, flux, labels, names in made:
        window = wave[0], wave[-1]
        star, arm, _ = observed(window, VESTA)
        train = at_pixels(wave, flux, labels, names, star.wave)
        with tempfile.TemporaryDirectory() as home, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # few stars to test by
            emulator = train_emulator(train, Path(home) / "m", method=method, noise="independent")
        print(f"arm {arm}, {len(labels)} synthetic stars, {method}; emulator's own scatter "
              f"{np.sqrt(np.median(emulator.layer.scatter[np.isfinite(emulator.layer.scatter)])):.4f}")  # fmt: skip
        tell("as it is, no nuisances", label_spectra(emulator, star, fast=True))
        tell("nuisances", label_spectra(emulator, star, fast=True, nuisances=WHAT))
        found, said = understood(emulator, star)
        print(f"  theory's {said}")
        tell("nuisances and theory's misfit", found)
        for name, value, sd in zip(found["nuisance"].to_numpy(), found["nuisance_value"].to_numpy()[0],
                                   found["nuisance_sd"].to_numpy()[0], strict=True):  # fmt: skip
            print(f"    {name}: {value:.3f} +- {sd:.3f}")
        if method == "process":  # three labels in a box of dwarfs do not reach the other stars
            off = off_by(emulator, window, star.wave)
            tell("and what theory's misfit does to labels of other stars", found, (off**2).mean(axis=0))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="*")
    parser.add_argument("--method", default="quadratic", choices=["quadratic", "process"])
    options = parser.parse_args()
    main(options.files, options.method)
