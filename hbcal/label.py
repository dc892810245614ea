"""The job `label`: an emulator and spectra in, label posteriors out, in their order. Read it top to bottom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from arviz_stats.base import array_stats

import hbcal
from hbcal._typing import Array
from hbcal.catalogue.label_schema import usual_unit
from hbcal.catalogue.label_tables import KnownLabels
from hbcal.catalogue.values import rows_of
from hbcal.emulator.base import DARK, Emulator, Known, sharing
from hbcal.emulator.nuisances import NuisanceEmulator, Nuisances, with_nuisances
from hbcal.infer.many import ManySettings, sample_many
from hbcal.infer.task import Task
from hbcal.numerics.importance import closer, frames, newton_mode, resampled, weigh_around
from hbcal.numerics.intervals import weighted_quantiles
from hbcal.numerics.label_density import LabelDensity, label_density
from hbcal.numerics.measured import Measured, tightened
from hbcal.numerics.pareto import smooth_weights
from hbcal.numerics.spread import loosened, moved_to, signs
from hbcal.numerics.tails import heavier
from hbcal.programs.spectral_labels import Observed, log_joint, spectral_labels
from hbcal.spectra.container import Spectra
from hbcal.spectra.normalise import normalised
from hbcal.spectra.pixels import at

SETTINGS = ManySettings()
BATCH, AGAIN = 512, 64  # spectra of a compiled call, and of one for those that a first round does not settle
SMALL = (32, 128)  # and of one of NUTS where there are no more
AT_ONCE = BATCH * 96  # draws whose density is taken at a time: bounds the memory of emulators that want many draws
ROUNDS = 4
K_HAT = 0.7  # Vehtari et al. 2024, JMLR 25, 72: beyond it the weights do not stand for the posterior
LEAST = 0.2  # of the draws' number, effective; fewer ask for another round
SLOW, LONGER, FEW = 0.5, 3, 32  # ESS as a share of the draws; chains of stars below it are so much longer, by so many
R_HAT, ESS = 1.05, 100.0  # of a star's full posterior: few draws of each of many
RARE = 1e-3  # of the training stars: rarer labels are outside
WORST = 5e-3  # of unseen training spectra: larger misfits are one
LEVELS = np.array([0.025, 0.1587, 0.5, 0.8413, 0.975])  # quantiles that are always kept
MOST = 100  # draws of a star that nuisances are told from
NONE = Nuisances()


def label_spectra(
    emulator: Emulator,
    spectra: Spectra,
    *,
    fast: bool = False,
    seed: int | tuple[int, ...] = 0,
    keep_draws: bool = False,
    weighted: bool = False,
    nuisances: Nuisances = NONE,
    prior: np.ndarray | None = None,
    known: KnownLabels | None = None,
    settings: ManySettings = SETTINGS,
    progress: Callable[[str], None] = lambda text: None,
) -> xr.Dataset:
    """The posterior of the labels of every spectrum.

        p(x | spectrum) proportional to p(spectrum | x) p(x)

    Fast: draws of a Student t around the emulator's guess (or Laplace's, at the mode), as many as the emulator says,
    are weighted by the posterior, smoothed (PSIS), and give mean and covariance; where few draws hold the weight, the
    next round begins from where they are. Full: NUTS begins there.

    Args:
        emulator: trained.
        spectra: its wavelengths must be among theirs.
        fast: importance sampling instead of NUTS; the output is the same.
        seed: of the draws.
        keep_draws: whether draws come out too. All count the same; those of `fast` are resampled by their weights.
        weighted: `fast`: draws as they were made, with their shares, weight(star, draw), which say more than resampling
            leaves.
        nuisances: what spectra may differ in besides labels; integrated out.
        prior: labels of a sample of the population the spectra come from, (n, n_label), in the labels' units and order;
            its density takes the place of the training stars'. What is flagged as extrapolation is still what
            the training stars say.
        known: measurements of some stars' labels besides their spectra, independent of these. Where the emulator makes
            posteriors wider (`Known.spread`), it does so with them in, so that they count for a little less.
        settings: of NUTS.
        progress: told how many spectra are done.

    Returns:
        The label schema: value(star, label), the mean; covariance(star, label, label_2), of the Gaussian whose 68.3%
        and 95% intervals hold as nearly as those of one can; quantile(star, label, probability), which like the draws
        know of skewness and of tails heavier than a Gaussian's; chi2(star), about 1 where the emulator fits,
        misfit_rank(star) between 0 and 1 (the share of unseen training spectra that fit better), extrapolation(star)
        between 0 and 1 (the share of training stars in denser places), flag(star), true where there is a reason not to
        trust the labels, and reason(star): ``extrapolation``, ``misfit``, ``k_hat`` or ``not converged``,
        ``nuisances``, which lie beyond where their form is right; with no answer: ``missing pixels``, ``missing
        meta``, or ``no light`` where the median flux is not positive, as of noise (chi2 is infinite).
        k_hat(star); full: r_hat(star, label), ess_bulk(star, label), diverging(star). Draws: draws(star, draw, label).
        Nuisances: nuisance_value(star, nuisance) and nuisance_sd: coefficients of continuum and shapes, velocity in
        km/s, broadening in (km/s)^2.

    Errors:
        HbcalError where the emulator's wavelengths or what it takes beside spectra are not there, or nuisances do not
            apply to it.

    Example:
        >>> label_spectra(tiny_emulator(), tiny_spectra(), fast=True)["covariance"].dims
        ('star', 'label', 'label_2')

    Source: Vehtari et al. 2024, JMLR 25, 72 (PSIS); Hoffman and Gelman 2014, JMLR 15, 1593 (NUTS).
    """
    trained = emulator.known
    spectra, meta = as_trained(trained, spectra)
    emulator = with_nuisances(emulator, nuisances)
    scaled = None if prior is None else (prior - np.asarray(trained.centre)) / np.asarray(trained.unit)
    density = None if scaled is None else label_density(scaled)
    parts, n, extra = [], len(spectra.star), _measured(trained, known, spectra.star)
    small = [size for size in SMALL if n <= size <= BATCH]  # chains of a few spectra need not wait for 512
    batch = min(AT_ONCE // emulator.n_draw, BATCH) if fast else (*small, BATCH)[0]
    for first in range(0, n, batch):
        rows = slice(first, first + batch)
        flux, err = (_padded(each[rows], batch) for each in (spectra.flux, spectra.flux_err))
        here = None if meta is None else _padded(meta[rows], batch)
        rng = np.random.default_rng([*np.atleast_1d(seed), first])
        measured = jax.tree.map(lambda leaf, rows=rows: jnp.asarray(leaf[rows]), extra)
        read = emulator.read(flux, err, here, _padded(spectra.flux_corr[rows], batch, 0.0))
        found = _label(emulator, density, *read, measured, fast, rng, settings)
        if fast and keep_draws and not weighted:
            found["off"] = resampled(rng, found["off"], found["share"])
        if not (keep_draws and weighted):
            del found["share"]
        if not keep_draws:  # many draws of many stars are gigabytes
            del found["off"]
        found["there"] = np.isfinite(flux).mean(axis=1)
        parts.append({name: values[: len(spectra.star[rows])] for name, values in found.items()})
        progress(f"labelling: {min(first + batch, n)} of {n} spectra")
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
    return _dataset(emulator, spectra.star, joined, fast, keep_draws)


def as_trained(trained: Known, spectra: Spectra) -> tuple[Spectra, np.ndarray | None]:
    """Spectra as an emulator was trained: its pixels, divided by a curve where its were.

    Args:
        trained: of the emulator.
        spectra: to be labelled.

    Returns:
        The spectra; what the emulator takes beside them, (n_star, n_meta), or None where that is nothing.

    Errors:
        HbcalError where its wavelengths are not among theirs, and where what it takes is not there.

    Example:
        >>> as_trained(tiny_emulator().known, tiny_spectra())[1] is None
        True
    """
    meta = spectra.beside(trained.meta_names)
    spectra = at(spectra, np.asarray(trained.wave))
    return (normalised(spectra, trained.normalise) if trained.normalise else spectra), meta


def _measured(trained: Known, known: KnownLabels | None, star: np.ndarray) -> Measured:
    """What is known besides of all stars, scaled, and nothing of those that fill the last batch."""
    unit, centre = np.asarray(trained.unit), np.asarray(trained.centre)
    value, weight = np.zeros((2, len(star) + BATCH, len(unit)))
    if known is not None:
        rows = rows_of(star.tolist(), known.star.tolist())
        there = (rows >= 0)[:, None] & np.isfinite(known.value + known.err)[rows]
        value[: len(star)] = np.where(there, (known.value[rows] - centre) / unit, 0.0)
        weight[: len(star)] = np.where(there, (known.err[rows] / unit) ** -2.0, 0.0)
    return Measured(value, weight)


def _label(
    emulator: Emulator, prior: LabelDensity | None, spectra: Any, why: np.ndarray, extra: Measured, fast: bool,
    rng: np.random.Generator, settings: ManySettings,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Draws, their shares, and what is known of them, of one batch."""
    stars = Observed(spectra, extra)
    draws, share, k_hat = _weighted(emulator, prior, stars, rng)
    out: dict[str, np.ndarray] = {"why": why, "k_hat": k_hat}
    if not fast:
        chains, ess, diverging = _chains(emulator, prior, stars, draws, share, why, rng, settings)
        out |= {"r_hat": _each(array_stats.rhat, chains), "ess_bulk": ess, "diverging": diverging}
        draws = chains.reshape(len(chains), -1, chains.shape[-1])
        share = np.full(draws.shape[:2], 1.0 / draws.shape[1])
    mean, cov = _mean_cov(draws, share)
    off, kept = draws - mean[:, None], float(np.asarray(emulator.known.kept))
    if kept < 1.0:
        loose = loosened(cov, kept)
        off, cov = moved_to(off, cov, loose), loose
    off = heavier(off, cov, float(np.asarray(emulator.known.tail)[0]))
    out["chi2"], out["density"] = map(np.asarray, _told(emulator, spectra, jnp.asarray(mean)))
    if isinstance(emulator, NuisanceEmulator):
        some = slice(None, None, -(-draws.shape[1] // MOST))
        told = _nuisances(emulator, spectra, jnp.asarray(draws[:, some]), jnp.asarray(share[:, some]))
        out["nuisance_value"], out["nuisance_sd"] = map(np.asarray, told)
        far = np.hypot(out["nuisance_value"] - np.asarray(spectra.centre), out["nuisance_sd"])
        out["bent"] = (far > np.asarray(emulator.reach)).any(axis=1)
    quantile = weighted_quantiles(off, share, LEVELS)
    return out | {"mean": mean, "cov": cov, "off": off, "share": share, "quantile": quantile}


def _chains(
    emulator: Emulator, prior: LabelDensity | None, stars: Observed, draws: np.ndarray, share: np.ndarray,
    why: np.ndarray, rng: np.random.Generator, settings: ManySettings,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """NUTS for every star, and longer, thinned chains for those that move slowly; ESS, and how often they diverged."""

    def run(stars: Observed, draws: np.ndarray, share: np.ndarray, settings: ManySettings) -> Any:
        key = jax.random.PRNGKey(int(rng.integers(2**31)))
        return map(np.array, _compiled(settings)(emulator, prior, stars, draws, share, key))

    chains, diverging = run(stars, draws, share, settings)
    n_chain, n_draw, n_label = chains.shape[1:]
    ess = _each(array_stats.ess, chains)
    slow = np.flatnonzero((why == "") & ~(ess >= SLOW * n_chain * n_draw).all(axis=1))
    longer = replace(settings, draws=LONGER * n_draw)
    for first in range(0, len(slow), FEW):
        rows = np.resize(slow[first : first + FEW], FEW)
        near = chains[rows].reshape(FEW, -1, n_label)
        near = near[:, np.linspace(0, near.shape[1] - 1, draws.shape[1]).astype(int)]
        alike = np.full(near.shape[:2], 1.0 / near.shape[1])
        found, diverged = run(jax.tree.map(lambda leaf, rows=rows: leaf[rows], stars), near, alike, longer)
        chains[rows], diverging[rows] = found[:, :, ::LONGER], -(-diverged // LONGER)
        ess[rows] = _each(array_stats.ess, chains[rows])
    return chains, ess, diverging.sum(axis=1)


def _mean_cov(draws: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Moments of every star's weighted draws."""
    mean = np.einsum("sd,sdl->sl", share, draws)
    left = draws - mean[:, None]
    return mean, np.swapaxes(share[:, :, None] * left, 1, 2) @ left


def _weighted(
    emulator: Emulator, prior: LabelDensity | None, stars: Observed, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws of every star, their shares, and k-hat; stars that one round does not settle get more."""
    centre, root = _guess(emulator, prior, stars)
    noise = lambda at: jnp.asarray(frames(rng, len(at), emulator.n_draw, at.shape[1]))  # noqa: E731
    draws, weight = map(np.array, _around(emulator, prior, stars, centre, root, noise(centre)))
    share, k_hat = map(np.array, _smooth(weight))
    for _ in range(ROUNDS - 1):
        poor = np.flatnonzero(~(k_hat <= K_HAT) | ~((share**2).sum(1) * share.shape[1] <= 1.0 / LEAST))
        for first in range(0, len(poor), AGAIN):
            rows = poor[first : first + AGAIN]
            padded = np.resize(rows, AGAIN)
            centre, root = _closer(jnp.asarray(draws[padded]), jnp.asarray(weight[padded]))
            some = jax.tree.map(lambda leaf, padded=padded: leaf[padded], stars)
            found = _around(emulator, prior, some, centre, root, noise(centre))
            draws[rows], weight[rows], share[rows], k_hat[rows] = (
                np.asarray(each)[: len(rows)] for each in (*found, *_smooth(found[1]))
            )
    return draws, share, k_hat


@jax.jit
def _smooth(weight: Array) -> tuple[Array, Array]:
    """Smoothed weights as shares, and k-hat."""
    return jax.vmap(smooth_weights)(weight)


@jax.jit
def _around(
    emulator: Emulator, prior: LabelDensity | None, stars: Observed, centre: Array, root: Array, noise: Array
) -> tuple[Array, Array]:
    def one(each: tuple[Observed, Array, Array, Array]) -> tuple[Array, Array]:
        star, at, turn, t = each
        return weigh_around(lambda x: log_joint(emulator, prior, x, star), at, turn, t)

    some = max(AT_ONCE // noise.shape[1], 1)
    found: tuple[Array, Array] = jax.lax.map(one, (stars, centre, root, noise), batch_size=min(some, len(noise)))
    return found


@jax.jit
def _guess(emulator: Emulator, prior: LabelDensity | None, stars: Observed) -> tuple[Array, Array]:
    """Centre and root of the first draws: the emulator's own guess and what was measured; a prior's mode nearby."""
    centre, root = jax.vmap(tightened)(stars.measured, *emulator.guess(stars.spectrum))
    if prior is None:
        return centre, root
    return jax.vmap(lambda star, at: newton_mode(lambda x: log_joint(emulator, prior, x, star), at))(stars, centre)


@jax.jit
def _closer(draws: Array, weight: Array) -> tuple[Array, Array]:
    return jax.vmap(closer)(draws, weight)


@jax.jit
def _told(emulator: Emulator, spectra: Any, at: Array) -> tuple[Array, Array]:
    """Misfit and ln p(labels), of the training stars, at the mean."""
    return jax.vmap(emulator.misfit)(at, spectra), emulator.known.density.log_density(at)


@jax.jit
def _nuisances(emulator: NuisanceEmulator, spectra: Any, draws: Array, share: Array) -> tuple[Array, Array]:
    """Mean and sd of each star's nuisances: what they are given the labels, and what the labels leave open."""
    share = share / share.sum(axis=1, keepdims=True)

    def one(x: Array) -> tuple[Array, Array]:
        mean, cov = jax.vmap(emulator.nuisances)(x, spectra)
        return mean, jnp.diagonal(cov, axis1=1, axis2=2)

    each, var = jax.lax.map(one, jnp.swapaxes(draws, 0, 1))
    mean = jnp.einsum("sd,dsk->sk", share, each)
    return mean, jnp.sqrt(jnp.einsum("sd,dsk->sk", share, var + (each - mean[None]) ** 2))


def _compiled(settings: ManySettings) -> Any:
    if settings not in _COMPILED:

        def run(emulator: Emulator, prior: Any, stars: Any, draws: Array, share: Array, key: Array) -> Any:
            return sample_many(Task(spectral_labels, (emulator, prior)), "x", stars, draws, share, key, settings)

        _COMPILED[settings] = jax.jit(run)
    return _COMPILED[settings]


_COMPILED: dict[ManySettings, Any] = {}


def _each(statistic: Any, chains: np.ndarray) -> np.ndarray:
    """A statistic of (chain, draw) for every star and label."""
    with np.errstate(all="ignore"):
        return np.asarray(statistic(chains, chain_axis=1, draw_axis=2))


def _padded(rows: np.ndarray, n: int, gap: float = np.nan) -> np.ndarray:
    """One shape for every batch; what is added is missing."""
    return np.pad(rows, ((0, n - len(rows)), *((0, 0),) * (rows.ndim - 1)), constant_values=gap)


def _dataset(
    emulator: Emulator, star: np.ndarray, found: dict[str, np.ndarray], fast: bool, keep_draws: bool
) -> xr.Dataset:
    """The label schema."""
    known, n_star = emulator.known, len(star)
    labels, unit, centre = list(known.label_names), np.asarray(known.unit), np.asarray(known.centre)
    mean = found.get("mean", np.zeros((n_star, len(labels))))
    cov = found.get("cov", np.zeros((n_star, len(labels), len(labels))))
    quantile = found.get("quantile", np.zeros((*mean.shape, len(LEVELS))))
    why = found.get("why", np.zeros(0, str))
    usable, dark = why == "", why == DARK
    factor, value = np.broadcast_to(unit, mean.shape), centre + unit * mean
    outside = 1.0 - sharing(known.typical, found.get("density", np.zeros(0)))
    # chi2 per pixel scatters with few pixels, as it did not in training
    steady = np.minimum(1.0, 2.0 * found.get("there", np.zeros(0))) ** 0.5
    rank = sharing(known.usual, 1.0 + steady * (found.get("chi2", np.zeros(0)) - 1.0))
    if n_star:
        factor = unit * np.exp(signs(rank, outside, mean) @ np.asarray(known.spread))
    core = factor * np.exp(np.asarray(known.tail)[1:])
    checks = {"misfit": rank > 1.0 - WORST, "extrapolation": outside > 1.0 - RARE}
    if fast:
        checks["k_hat"] = ~(found.get("k_hat", np.zeros(0)) <= K_HAT)
    else:
        settled = (found.get("r_hat", np.zeros((0, 1))) <= R_HAT) & (found.get("ess_bulk", np.zeros((0, 1))) >= ESS)
        checks["not converged"] = ~settled.all(axis=1)
    if "bent" in found:
        checks["nuisances"] = found["bent"]
    reason = np.array(
        [", ".join(name for name, holds in checks.items() if holds[i]) if ok else why[i]
         for i, ok in enumerate(usable)], dtype=object,
    ).astype(str)  # fmt: skip
    where = lambda values, gap=np.nan: np.where(usable.reshape(-1, *(1,) * (values.ndim - 1)), values, gap)  # noqa: E731
    data: dict[str, Any] = {
        "value": (("star", "label"), where(value)),
        "covariance": (("star", "label", "label_2"), where(cov * factor[:, :, None] * factor[:, None, :])),
        "quantile": (("star", "label", "probability"), where(value[:, :, None] + core[:, :, None] * quantile)),
        "chi2": ("star", np.where(dark, np.inf, where(found.get("chi2", np.zeros(0))))),
        "extrapolation": ("star", where(outside)), "misfit_rank": ("star", np.where(dark, 1.0, where(rank))),
        "k_hat": ("star", where(found.get("k_hat", np.zeros(0)))),
        "flag": ("star", reason != ""), "reason": ("star", reason),
    }  # fmt: skip
    if not fast:
        data |= {name: (("star", "label"), where(found[name])) for name in ("r_hat", "ess_bulk") if name in found}
        data |= {"diverging": ("star", found["diverging"])} if "diverging" in found else {}
    if keep_draws:
        off = found.get("off", np.zeros((n_star, 1, len(labels))))
        data["draws"] = (("star", "draw", "label"), where(value[:, None] + core[:, None] * off))
        data |= {"weight": (("star", "draw"), found["share"])} if fast and "share" in found else {}
    coords: dict[str, Any] = {"star": star.astype(object), "label": labels, "label_2": labels, "probability": LEVELS}
    if isinstance(emulator, NuisanceEmulator):
        nothing = np.zeros((n_star, len(emulator.names)))
        data |= {
            name: (("star", "nuisance"), where(found.get(name, nothing))) for name in ("nuisance_value", "nuisance_sd")
        }
        coords["nuisance"] = list(emulator.names)
    attrs = {
        "hbcal": hbcal.__version__, "method": "importance sampling, PSIS" if fast else "NUTS",
        "units": ", ".join(usual_unit(label) for label in labels),
    }  # fmt: skip
    return xr.Dataset(data, coords, attrs)
