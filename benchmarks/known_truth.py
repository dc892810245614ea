"""Spectra whose labels are known: how far from the Cramer-Rao bound, and do the regions hold what they claim?

    HBCAL_TEST_DATA=... python -W ignore benchmarks/known_truth.py [giants|moog|rvs|galah] [--sn 50 100 200] [--nuts]

giants: from the coefficients of a quadratic model of APOGEE giants, intrinsic scatter included. moog, and rvs and galah
(Turbospectrum): synthetic spectra, broadened, of models that no training star had. Limits: RMSE <= 1.05 x bound in the
interior of the training set; 68.3 / 95% regions, marginal and joint, hold 66-70.5 / 94-96%. Regions are told of
Gaussians of the covariances, and of quantiles and draws, which know of tails; exit status 1 where those of the
interior, or its RMSE, miss the limits by more than two standard errors.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from scipy.ndimage import gaussian_filter1d

from hbcal.emulator.full import quadratic
from hbcal.emulator.pixels import PixelEmulator
from hbcal.emulator.processes import train_processes
from hbcal.evaluation import summary
from hbcal.label import label_spectra
from hbcal.numerics.pixel_layer import pixel_layer
from hbcal.spectra.container import Spectra
from hbcal.training import train_emulator

DATA = Path(os.environ.get("HBCAL_TEST_DATA", "../shared/data")) / "spectra"
GRIDS = {  # file, wavelengths, fluxes or depths, resolving power
    "moog": ("synthetic_moog_apogee.npz", "wave_air_A", "depth_u16", 22500.0),
    "rvs": ("synthetic_turbospectrum_rvs_galah.npz", "rvs_wave_A", "rvs_flux_u16", 11500.0),
    "galah": ("synthetic_turbospectrum_rvs_galah.npz", "galahred_wave_A", "galahred_flux_u16", 28000.0),
}
LABEL_ERR = np.array([15.0, 0.03, 0.01, 0.01])  # of APOGEE's giants: K, dex
JITTER = 0.15  # of the labels' scatter: new stars near the survey's
ROUNDING = 5e-5  # of the fluxes of the synthetic spectra
MOST, SHARES = 1.05, {68: (0.66, 0.705), 95: (0.94, 0.96)}  # times the bound; of stars that regions hold
INTERIOR = 1.6  # scatters from the mean, in every label


class Giants:
    """The quadratic model: labels in, spectra and their Fisher information out."""

    names = ("teff", "logg", "fe_h", "alpha_m")

    def __init__(self) -> None:
        with np.load(DATA / "cannon_apogee_giants_coefficients.npz") as z:
            self.coeffs, self.scatter, self.base = z["coeffs"], z["scatter"], z["baseline_labels"]
            self.wave, self.labels = z["wave_7214"], z["train_labels"]

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        off = rng.multivariate_normal(np.zeros(4), JITTER**2 * np.cov(self.labels.T), n)
        return self.labels[rng.integers(len(self.labels), size=n)] + off

    def flux(self, labels: np.ndarray) -> np.ndarray:
        return np.asarray(jax.vmap(quadratic)(jnp.asarray(labels - self.base))) @ self.coeffs

    def bound(self, labels: np.ndarray, sn: float) -> np.ndarray:
        """Cramer-Rao: sd of each label."""
        slope = np.asarray(jax.vmap(jax.jacfwd(quadratic))(jnp.asarray(labels - self.base)))
        gram = (self.coeffs / (self.scatter**2 + sn**-2.0)) @ self.coeffs.T
        info = np.swapaxes(slope, 1, 2) @ gram @ slope
        return np.sqrt(np.einsum("ill->il", np.linalg.inv(info)))


def observed(world: Giants, labels: np.ndarray, sn: float, rng: np.random.Generator, label_err: np.ndarray) -> Spectra:
    """Noise on spectra and labels."""
    clean = world.flux(labels)
    flux = clean + rng.normal(size=clean.shape) * np.sqrt(world.scatter**2 + sn**-2.0)
    reported = labels + rng.normal(size=labels.shape) * label_err
    ids = np.array([str(i) for i in range(len(labels))])
    err = np.broadcast_to(label_err, labels.shape).copy()
    return Spectra(world.wave, flux, np.full_like(flux, 1.0 / sn), ids, reported, err, world.names)


def told(found: xr.Dataset, truth: np.ndarray, bound: np.ndarray, inside: np.ndarray, names: tuple) -> list[str]:
    """One line per label, and one for the joint regions: of covariances, and of quantiles and draws.

    Returned is what in the interior is not as good as it has to be, by more than two standard errors.
    """
    amiss = []
    for where, rows in (("interior", inside), ("all", np.ones(len(truth), bool))):
        here = found.isel(star=np.flatnonzero(rows))
        held = summary(here, truth[rows], np.zeros_like(truth[rows]))
        sd = np.sqrt(np.einsum("ill->il", here["covariance"].to_numpy()))
        n = int(rows.sum())
        print(f"   {where}, {n} stars: 68.3% +- {46.5 / n**0.5:.1f}, 95% +- {21.8 / n**0.5:.1f}, ratio +- "
              f"{0.71 / n**0.5:.3f}")  # fmt: skip
        share = lambda of, kind: "  ".join(f"{100 * of[f'{kind}_{p}']:5.1f}" for p in (68, 95))  # noqa: E731
        for l, name in enumerate(names):
            one, least = held[name], np.sqrt((bound[rows, l] ** 2).mean())
            print(
                f"    {name:8s} rmse {one['rms']:8.4g}  bound {least:8.4g}  ratio {one['rms'] / least:.3f}  "
                f"claimed/bound {np.sqrt((sd[:, l] ** 2).mean()) / least:.3f}  covariance {share(one, 'within')}  "
                f"quantiles {share(one, 'quantile')}"
            )
            if where == "interior":
                least *= MOST * (1.0 + 1.4 / n**0.5)
                amiss += [f"{name}: rmse {one['rms']:.4g}"] if not one["rms"] <= least else []
                amiss += [f"{name}: {text}" for text in outside(one, "quantile", n)]
        joint = held["joint"]
        amiss += [f"joint: {text}" for text in outside(joint, "draws", n)] if where == "interior" else []
        print(f"    joint    covariance {share(joint, 'within')}  draws {share(joint, 'draws')}", flush=True)
    return amiss


def outside(one: dict[str, float], kind: str, n: int) -> list[str]:
    """Shares of stars held that are outside what they have to be, by more than two standard errors."""
    shares = {f"{kind}_{p}": (one[f"{kind}_{p}"], *between) for p, between in SHARES.items()}
    error = lambda share: 2.0 * np.sqrt(share * (1.0 - share) / n)  # noqa: E731
    inside = lambda v, low, high: low - error(low) <= v <= high + error(high)  # noqa: E731
    return [f"{k} {told[0]:.3f}" for k, told in shares.items() if not inside(*told)]


def giants(args: argparse.Namespace) -> list[str]:
    """Train and label at each signal to noise; what is amiss."""
    world, rng, amiss = Giants(), np.random.default_rng(0), []
    for sn in args.sn:
        train, test = world.draw(args.train, rng), world.draw(args.test, rng)
        label_err = LABEL_ERR * args.label_err
        begin = time.time()
        with tempfile.TemporaryDirectory() as folder:
            emulator = train_emulator(
                observed(world, train, sn, rng, label_err), Path(folder) / "model", method=args.method,
                progress=print if args.verbose else None,
            )  # fmt: skip
        print(f"giants, S/N {sn:g}, {args.train} training stars, label errors x {args.label_err:g}: trained in "
              f"{time.time() - begin:.0f} s", flush=True)  # fmt: skip
        seen = observed(world, test, sn, rng, label_err)
        inside = (np.abs((test - train.mean(0)) / train.std(0)) < INTERIOR).all(axis=1)
        for fast in (True, False) if args.nuts else (True,):
            begin = time.time()
            found = label_spectra(emulator, seen, fast=fast, keep_draws=True)
            print(f"  {'fast' if fast else 'NUTS'}: {len(test) / (time.time() - begin):.1f} spectra/s, flagged "
                  f"{100 * found['flag'].to_numpy().mean():.1f}%, "
                  f"chi2 {found['chi2'].to_numpy().mean():.4f}")  # fmt: skip
            said = told(found, test, world.bound(test, sn), inside, world.names)
            amiss += [f"S/N {sn:g}: {each}" for each in said]
    return amiss


def synthetic(args: argparse.Namespace) -> list[str]:
    """A grid of synthetic spectra, broadened: eleven labels, one star in six held out, in turn if so asked."""
    amiss = []
    file, wave_key, flux_key, resolution = GRIDS[args.world]
    with np.load(DATA / file) as z:
        wave, labels = z[wave_key], z["labels"]
        names = [str(name) for name in z["label_names"]]
        flux = z[flux_key] / float(z["scale"])
    flux = 1.0 - flux if flux_key.startswith("depth") else flux
    sigma = wave.mean() / resolution / 2.3548 / (wave[1] - wave[0])
    flux = gaussian_filter1d(flux, sigma, axis=1)[:, ::2]
    wave = wave[::2]
    keep = [i for i, name in enumerate(names) if name not in ("alpha0", "alpha", "vmicro")]
    labels, names = labels[:, keep], tuple(names[i] for i in keep)
    if args.few:
        labels, names = labels[:, :3], names[:3]
    rng = np.random.default_rng(args.seed)
    order = rng.permutation(len(labels))
    x = (labels - labels.mean(axis=0)) / labels.std(axis=0)
    truth = exact(flux, x)
    slope = np.asarray(jax.vmap(truth.features.slope)(jnp.asarray(x)))
    inside = (np.abs(x) < INTERIOR + 0.4).all(axis=1)
    for sn in args.sn:
        noisy = flux + rng.normal(size=flux.shape) / sn

        def of(rows: np.ndarray, flux: np.ndarray = noisy, err: float = 1.0 / sn) -> Spectra:
            return Spectra(wave, flux[rows], np.full_like(flux[rows], err), rows.astype(str), labels[rows],
                           np.zeros_like(labels[rows]), names)  # fmt: skip

        begin, parts, asked = time.time(), [], []
        for fold in range(args.folds):
            test, train = order[fold::6], np.delete(order, np.s_[fold::6])
            with tempfile.TemporaryDirectory() as folder:
                emulator = train_emulator(of(train, flux, ROUNDING) if args.clean else of(train),
                                          Path(folder) / "model", method=args.method, noise="independent",
                                          progress=print if args.verbose else None)  # fmt: skip
            parts.append(label_spectra(emulator, of(test), fast=not args.nuts, keep_draws=True))
            asked.append(test)
        print(f"{args.world}, S/N {sn:g}, {len(train)} training spectra{' without noise' * args.clean}, {args.method}: "
              f"{args.folds} times in {time.time() - begin:.0f} s", flush=True)  # fmt: skip
        test = np.concatenate(asked)
        w = np.asarray(truth.layer.weights)
        info = np.swapaxes(slope[test], 1, 2) @ ((w.T * sn**2) @ w) @ slope[test]
        bound = np.sqrt(np.einsum("ill->il", np.linalg.inv(info))) * labels.std(axis=0)
        said = told(xr.concat(parts, "star", join="override"), labels[test], bound, inside[test], names)
        amiss += [f"S/N {sn:g}: {each}" for each in said]
    return amiss


def exact(flux: np.ndarray, x: np.ndarray) -> PixelEmulator:
    """An emulator of all spectra without noise, those held out as well: for the derivatives of the bound alone."""
    err = np.full_like(flux, ROUNDING)
    features = train_processes(x, flux, err)
    layer = pixel_layer(np.asarray(jax.vmap(features.of)(jnp.asarray(x))), None, flux, err)
    return PixelEmulator(None, layer, features, np.zeros((x.shape[1], 0) * 2))  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("world", nargs="?", default="giants", choices=["giants", *GRIDS])
    parser.add_argument("--sn", type=float, nargs="+", default=[50.0, 100.0, 200.0])
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--test", type=int, default=800)
    parser.add_argument("--label-err", type=float, default=1.0, help="factor on the errors of the training labels")
    parser.add_argument("--method", default="quadratic")
    parser.add_argument("--nuts", action="store_true")
    parser.add_argument("--clean", action="store_true", help="grids: training spectra without noise")
    parser.add_argument("--seed", type=int, default=0, help="grids: of the stars held out and of the noise")
    parser.add_argument("--few", action="store_true", help="grids: teff, logg, feh alone")
    parser.add_argument("--folds", type=int, default=1, help="grids: how many sixths are held out in turn, at most 6")
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    if amiss := (synthetic if args.world in GRIDS else giants)(args):
        raise SystemExit(f"not as it has to be: {'; '.join(amiss)}")


if __name__ == "__main__":
    main()
