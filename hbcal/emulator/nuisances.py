"""An emulator of pixels whose spectra may be tilted, shifted and broadened: nuisances that are integrated out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from hbcal._errors import HbcalError
from hbcal._pytree import pytree, static
from hbcal._typing import AnyArray, Array, Float
from hbcal.emulator.base import Emulator, Known, Predicted
from hbcal.emulator.basis import read_basis
from hbcal.emulator.pixels import PixelEmulator
from hbcal.numerics.banded import smooth_err
from hbcal.numerics.half_line import not_negative
from hbcal.numerics.moved_weights import continuum_terms, curves, line_width, moved, stretches
from hbcal.numerics.packed_spectrum import Moments, PackedSpectrum, error_given, moments, off_by, pack_own
from hbcal.numerics.pixel_layer import where_packed
from hbcal.numerics.wavelength import SPEED_OF_LIGHT

ROUNDS, MOST_ROUNDS = 4, 30  # of moving the weights to where the spectrum is
SETTLED = 0.01  # change of ln of the factor that shapes multiply by: when to stop moving
BEND = 0.3  # of the same: what is left of it is linear within
FAR = 3.0  # prior sds a velocity is searched over; pixels so near an end are not used
STRAIGHT = 0.5  # of a line's width, or variance: what is left of a shift, or a broadening, is linear within it


@dataclass(frozen=True)
class Nuisances:
    """What spectra may differ in from the emulator's, besides labels: normal around zero, sds as given.

    Broadening is what lines have more than in training, never less: weights cannot be made sharper without a bias, so
    spectra sharper than the emulator's are a misfit, and training spectra should be the sharpest.

    Attributes:
        continuum: degree of a polynomial that multiplies the flux, one for each stretch of wavelengths without a gap;
            None for none.
        continuum_sd: of each of its Legendre coefficients.
        velocity: km/s.
        broadening: km/s; the variance in velocity that lines gain is half normal, its scale broadening^2.
        basis: file of shapes that may multiply the flux, with their sds, see `hbcal.emulator.basis.read_basis`.
    """

    continuum: int | None = None
    continuum_sd: float = 0.1
    velocity: float = 0.0
    broadening: float = 0.0
    basis: str | None = None

    def __post_init__(self) -> None:
        for name in ("continuum_sd", "velocity", "broadening"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 0):
                raise HbcalError(f"The prior sd {name} of a nuisance is {value:g}: it must be finite and not negative.")
        if self.continuum is not None and not 0 <= self.continuum <= 20:
            raise HbcalError(f"The continuum's degree is {self.continuum}: it must be between 0 and 20.")

    @property
    def some(self) -> bool:
        """Whether there is any."""
        tilted = self.continuum is not None and self.continuum_sd > 0
        return tilted or self.velocity > 0 or self.broadening > 0 or self.basis is not None


@pytree
class NuisedSpectrum:
    """A spectrum given weights that were moved to it.

    Attributes:
        packed: sums of [W_0, B], see `NuisanceEmulator`.
        centre: c_0, (n_star, n_nuisance).
        doubt: as of `hbcal.emulator.pixels.PixelSpectrum`.
    """

    packed: PackedSpectrum
    centre: AnyArray
    doubt: AnyArray | None


@pytree
class NuisanceEmulator(Emulator):
    """f is N(m(c) T(v, b) W phi(x), V + emulator error),  c ~ N(0, S^2), b >= 0, c = (m's, v, b) integrated out.

    m = (1 + sum_k c_k P_k) exp(sum_j c_j b_j) multiplies, T shifts and broadens (`hbcal.numerics.moved_weights`).
    Around the likeliest (x_0, c_0) of each star, found when it is read,

        f ~ W_0 phi(x) + B (c - c_0),   W_0 = m(c_0) T(c_0) W,   B = d(m T W phi(x_0)) / dc

    so what is linear is only what the posterior leaves open: far from lines of another shape, and of second order in
    the posterior's width. Given x, c - c_0 is N(-c_0, S^2) and the likelihood Gaussian of low rank (`off_by`), times
    twice the probability that b >= 0 given spectrum and x; the labels stay all that is sampled. The emulator's error,
    s_p and U in it, is multiplied by m(c_0), too, but not moved.

    Attributes:
        known: of the training stars.
        pixels: the emulator.
        sd: S, (n_nuisance,).
        reach: how far from c_0 the linear form is trusted, (n_nuisance,).
        tilts, shapes: P and b, (n_pix, n).
        what: as asked for.
        names: of the nuisances; units are 1, km/s and (km/s)^2.
    """

    known: Known
    pixels: PixelEmulator
    sd: AnyArray
    reach: AnyArray
    tilts: AnyArray
    shapes: AnyArray
    what: Nuisances = static()
    names: tuple[str, ...] = static()
    stretches = PixelEmulator.stretches
    n_draw = PixelEmulator.n_draw

    def read(
        self, flux: np.ndarray, flux_err: np.ndarray, meta: np.ndarray | None = None, corr: np.ndarray | None = None
    ) -> tuple[NuisedSpectrum, np.ndarray]:
        """Sums of every spectrum around its own nuisances."""
        mover = _Mover(self, flux, flux_err if corr is None else smooth_err(corr, flux_err))
        seen = np.isfinite(mover.flux) & np.isfinite(mover.err) & np.isfinite(np.asarray(self.pixels.layer.scatter))
        n_feature = self.pixels.layer.weights.shape[1]
        why = np.where(seen.sum(axis=1) >= n_feature + len(self.names), "", "missing pixels")
        rows = np.flatnonzero(why == "")
        centre, x = mover.search(rows)
        for number in range(MOST_ROUNDS):
            before = centre
            centre, x, _ = mover.step(rows, centre, x)
            if number + 1 >= ROUNDS and mover.bends(centre - before).max(initial=0.0) < SETTLED:
                break
        doubt = self.pixels.doubt(jnp.asarray(x))
        return NuisedSpectrum(mover.pack(rows, centre, x), jnp.asarray(centre), doubt), why

    def log_likelihood(self, x: Float[Array, " n_label"], star: NuisedSpectrum) -> Array:
        """ln N(spectrum; W_0 phi - B c_0, V + emulator error + B S^2 B') + ln 2 P(b >= 0 | spectrum, x)."""
        chi2, log_det = off_by(*self._parts(x, star))
        told = -0.5 * (chi2 + log_det)
        return told + jnp.log(2.0) + norm.logcdf(self._positive(x, star)) if self._broadens else told

    def misfit(self, x: Float[Array, " n_label"], star: NuisedSpectrum) -> Array:
        """chi2 per pixel, at the likeliest b that is not negative."""
        chi2 = off_by(*self._parts(x, star))[0]
        if self._broadens:
            chi2 = chi2 + jnp.minimum(self._positive(x, star), 0.0) ** 2
        return chi2 / jnp.maximum(star.packed.n_seen, 1.0)

    def predict(self, x: Float[Array, " n_label"]) -> Predicted:
        """Of a spectrum that no nuisance has touched."""
        return self.pixels.predict(x)

    def guess(self, stars: NuisedSpectrum) -> tuple[Array, Array]:
        """The emulator's own, of sums without the nuisances."""
        return self.pixels.guess_packed(_reduced(self, stars)[0])

    def nuisances(self, x: Float[Array, " n_label"], star: NuisedSpectrum) -> tuple[Array, Array]:
        """Mean and covariance of c given the labels."""
        mean, cov = error_given(*self._parts(x, star))  # of c itself: its prior mean, zero, is what W_0 phi - B c_0 has
        n = len(self.names)
        mean, cov = mean[-n:], cov[-n:, -n:]
        return not_negative(mean, cov) if self._broadens else (mean, cov)

    @property
    def _broadens(self) -> bool:
        return self.names[-1] == "broadening"

    def _positive(self, x: Array, star: NuisedSpectrum) -> Array:
        """Mean of b over its sd, were b not bounded."""
        mean, cov = error_given(*self._parts(x, star))
        return jnp.asarray(mean[-1] / jnp.sqrt(cov[-1, -1]))

    def _parts(self, x: Array, star: NuisedSpectrum) -> tuple[Moments, Array, Array]:
        """Of `off_by`: features are off as the emulator says, nuisances by N(0, S^2) around zero, so -c_0 in W_0."""
        phi, n = self.pixels.features.of(x), len(self.names)
        leverage = phi @ self.pixels.layer.spread @ phi
        block = jax.scipy.linalg.block_diag
        return (
            moments(star.packed, leverage, len(phi) + n),
            jnp.concatenate([phi, -jnp.asarray(star.centre)]),
            block(self.pixels.reach(x, star.doubt), jnp.diag(jnp.asarray(self.sd))),
        )


def with_nuisances(emulator: Emulator, nuisances: Nuisances) -> Emulator:
    """The emulator of spectra that may be tilted, shifted and broadened.

    Args:
        emulator: trained, of independent pixels.
        nuisances: prior sds; those that are zero are left out.

    Returns:
        A `NuisanceEmulator`; the emulator itself where there is no nuisance.

    Errors:
        HbcalError for an emulator of correlated pixels, for wavelengths that are not positive, and for an emulator
            with no stretch of neighbouring pixels.

    Example:
        >>> with_nuisances(tiny_emulator(), Nuisances(continuum=1))
        Traceback (most recent call last):
        hbcal._errors.HbcalError: Nuisances need an emulator of independent pixels, and this one learned how its ...
        >>> from dataclasses import replace
        >>> emulator = replace(tiny_pixels(), known=replace(tiny_pixels().known, wave=np.arange(5000.0, 5006.0)))
        >>> with_nuisances(emulator, Nuisances(continuum=1, velocity=2.0)).names
        ('continuum_0', 'continuum_1', 'velocity')
    """
    if not nuisances.some:
        return emulator
    if not isinstance(emulator, PixelEmulator):
        raise HbcalError(
            "Nuisances need an emulator of independent pixels, and this one learned how its pixels vary together (as "
            "those of Gaia XP do): leave continuum, velocity, broadening and basis away."
        )
    wave = np.asarray(emulator.known.wave)
    if not (wave > 0).all():
        raise HbcalError("Nuisances need wavelengths, and the emulator's are not all positive: give its pixels theirs.")
    stretch = stretches(wave, np.isfinite(np.asarray(emulator.layer.scatter)))
    if not (stretch >= 0).any():
        raise HbcalError("The emulator has no four neighbouring pixels: it cannot be shifted, and has no continuum.")
    names: list[str] = []
    sd: list[float] = []
    reach: list[float] = []
    tilts = shapes = np.zeros((len(wave), 0))
    if nuisances.continuum is not None and nuisances.continuum_sd > 0:
        tilts, terms = continuum_terms(wave, stretch, nuisances.continuum)
        names += terms
        sd += [nuisances.continuum_sd] * len(terms)
    if nuisances.basis is not None:
        basis = read_basis(Path(nuisances.basis), wave)
        shapes, names, sd = basis.shape, [*names, *basis.names], [*sd, *basis.sd]
    reach += [np.inf] * tilts.shape[1] + (BEND / np.maximum(np.abs(shapes).max(axis=0), 1e-300)).tolist()
    phi = np.asarray(emulator.features.of(jnp.asarray(emulator.known.starts).mean(axis=0)))
    width = line_width(curves(wave, stretch, np.asarray(emulator.layer.weights) @ phi))
    if nuisances.velocity > 0:
        names, sd, reach = [*names, "velocity"], [*sd, nuisances.velocity], [*reach, STRAIGHT * width]
    if nuisances.broadening > 0:
        names, sd, reach = [*names, "broadening"], [*sd, nuisances.broadening**2], [*reach, STRAIGHT * width**2]
    return NuisanceEmulator(
        emulator.known, emulator, np.array(sd), np.array(reach), tilts, shapes, nuisances, tuple(names)
    )


class _Mover:
    """Spectra of one batch, and the weights as each of them has them."""

    def __init__(self, emulator: NuisanceEmulator, flux: np.ndarray, err: np.ndarray):
        self.of, layer = emulator, emulator.pixels.layer
        self.wave = np.asarray(emulator.known.wave)
        self.weights = np.asarray(layer.weights)
        self.stretch = stretches(self.wave, np.isfinite(np.asarray(layer.scatter)))
        self.made = curves(self.wave, self.stretch, self.weights)
        self.tilts, self.shapes = np.asarray(emulator.tilts), np.asarray(emulator.shapes)
        self.most = FAR * emulator.what.velocity
        usable = (self.stretch >= 0)[None] & ~self._edge()[None]
        self.flux, self.err = np.where(usable, flux, np.nan), np.where(usable, err, np.nan)

    def _edge(self) -> np.ndarray:
        """Pixels that a shift could take beyond the end of their stretch: unseen, whatever the shift."""
        edge, width = np.zeros(len(self.wave), bool), np.log1p(self.most / SPEED_OF_LIGHT)
        for s in range(len(self.made.splines) if self.most > 0 else 0):
            at = self.made.ln_wave[self.stretch == s]
            edge[self.stretch == s] = np.minimum(at - at[0], at[-1] - at) < width
        return edge

    def _split(self, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, float]:
        """m, dm / dc, velocity and broadening of one star's c."""
        at, n = dict(zip(self.of.names, centre, strict=True)), self.tilts.shape[1]
        tilt = 1.0 + self.tilts @ centre[:n]
        shape = np.exp(self.shapes @ centre[n : n + self.shapes.shape[1]])
        level, slopes = tilt * shape, [shape[:, None] * self.tilts, (tilt * shape)[:, None] * self.shapes]
        return level, np.concatenate(slopes, axis=1), at.get("velocity", 0.0), at.get("broadening", 0.0)

    def columns(self, centre: np.ndarray, x: np.ndarray) -> np.ndarray:
        """[W_0, B] of one star, (n_pix, n_feature + n_nuisance)."""
        level, slopes, velocity, broadening = self._split(centre)
        here = moved(self.made, velocity, broadening)
        phi = np.asarray(self.of.pixels.features.of(jnp.asarray(x)))
        parts = [level[:, None] * here, slopes * (here @ phi)[:, None]]
        if velocity or broadening or self.of.names[-1] in ("velocity", "broadening"):
            flux = curves(self.wave, self.stretch, self.weights @ phi)
            slope = lambda order, unit: (level * moved(flux, velocity, broadening, order) / unit)[:, None]  # noqa: E731
            if "velocity" in self.of.names:
                parts.append(-slope(1, SPEED_OF_LIGHT))
            if "broadening" in self.of.names:
                parts.append(slope(2, 2.0 * SPEED_OF_LIGHT**2))
        return np.concatenate(parts, axis=1)

    def pack(self, rows: np.ndarray, centre: np.ndarray, x: np.ndarray, n_node: int = 8) -> PackedSpectrum:
        """Sums of each star, zeros for those that cannot be used."""
        n = self.weights.shape[1] + len(self.of.names)
        series = np.zeros((len(self.flux), n_node, n * (n + 1) // 2 + n + 2))
        turn, n_seen = np.ones(len(series)), np.zeros(len(series))
        for i in rows:
            level = self._split(centre[i])[0]  # the emulator's own error is of spectra that nothing has multiplied
            safe = np.where(level > 0.0, level, 1.0)
            flux, err = np.where(level > 0.0, self.flux[i], np.nan) / safe, self.err[i] / safe
            one = pack_own(self.of.pixels.layer, self.columns(centre[i], x[i]) / safe[:, None], flux, err, n_node)
            series[i], turn[i], n_seen[i] = (each[0] for each in one)
        return PackedSpectrum(jnp.asarray(series), jnp.asarray(turn), jnp.asarray(n_seen))

    def step(self, rows: np.ndarray, centre: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Likelier (c, x), and how likely: Gauss and Newton, the weights moved to where the last step ended."""
        at = NuisedSpectrum(self.pack(rows, centre, x, 1), jnp.asarray(centre), None)
        new, x_new, cost = map(np.array, _gauss_newton(self.of, at))
        here = slice(self.tilts.shape[1], self.tilts.shape[1] + self.shapes.shape[1])
        new[:, here] = centre[:, here] + (new - centre)[:, here] / np.maximum(self.bends(new - centre), 1.0)[:, None]
        if "velocity" in self.of.names:
            k = self.of.names.index("velocity")
            new[:, k] = np.clip(new[:, k], -self.most, self.most)
        if "broadening" in self.of.names:
            k = self.of.names.index("broadening")
            new[:, k] = np.maximum(new[:, k], 0.0)
        return new, x_new, cost

    def bends(self, off: np.ndarray) -> np.ndarray:
        """The largest change of ln flux, by shapes, that a change of c means, (n_star,)."""
        n = self.tilts.shape[1]
        return np.abs(off[:, n : n + self.shapes.shape[1]] @ self.shapes.T).max(axis=1, initial=0.0)

    def search(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where to begin: at the velocity, of those a line's width apart, that fits best."""
        n_label = np.asarray(self.of.known.starts).shape[1]
        zero, x = np.zeros((len(self.flux), len(self.of.names))), np.zeros((len(self.flux), n_label))
        if "velocity" not in self.of.names:
            return zero, x
        k = self.of.names.index("velocity")
        width = np.asarray(self.of.reach)[k] / STRAIGHT
        n = int(min(self.most // width, 200))
        best, found, where = np.full(len(x), np.inf), zero, x
        for velocity in width * np.arange(-n, n + 1) if n else ():
            start = zero.copy()
            start[:, k] = velocity
            _, x_new, cost = self.step(rows, start, x)
            better = cost < best
            best, found = np.where(better, cost, best), np.where(better[:, None], start, found)
            where = np.where(better[:, None], x_new, where)
        return found, where


@jax.jit
def _gauss_newton(emulator: NuisanceEmulator, stars: NuisedSpectrum) -> tuple[Array, Array, Array]:
    """Likeliest nuisances and labels of each star on the linear form, and minus twice the log likelihood there."""
    reduced, given = _reduced(emulator, stars)
    x, _ = emulator.pixels.guess_packed(reduced)

    def one(star: PackedSpectrum, x: Array) -> Array:
        phi = jnp.asarray(emulator.pixels.features.of(x))
        found = moments(star, jnp.zeros(()), len(phi))
        return jnp.asarray(found.square - 2.0 * found.cross @ phi + phi @ found.gram @ phi + found.log_det)

    phi = jax.vmap(emulator.pixels.features.of)(x)
    left = given[0] - jnp.einsum("skf,sf->sk", given[1], phi)
    return jnp.asarray(stars.centre) + left, x, jax.vmap(one)(reduced, x)


def _reduced(emulator: NuisanceEmulator, stars: NuisedSpectrum) -> tuple[PackedSpectrum, tuple[Array, Array]]:
    """Sums at no leverage with c integrated out, and what gives E[c - c_0 | phi] = a - A phi.

    With M = S^-2 + B' V^-1 B and y = f + B c_0:  W' V^-1 W - W' V^-1 B M^-1 B' V^-1 W, and so on.
    """
    series, n_all = jnp.asarray(stars.packed.series), len(emulator.names) + emulator.pixels.layer.weights.shape[1]
    n = n_all - len(emulator.names)
    sums = jnp.einsum("k,skm->sm", (-1.0) ** np.arange(series.shape[1]), series)
    upper, square = np.triu_indices(n), where_packed(n_all)
    precision = jnp.diag(1.0 / jnp.asarray(emulator.sd) ** 2)

    def one(sums: Array, centre: Array) -> tuple[Array, Array, Array]:
        gram, cross, total, log_det = sums[square], sums[-2 - n_all : -2], sums[-2], sums[-1]
        ww, wb, bb = gram[:n, :n], gram[:n, n:], gram[n:, n:]
        root = jnp.linalg.cholesky(precision + bb)
        solve = lambda b: jax.scipy.linalg.cho_solve((root, True), b)  # noqa: E731
        w, b = cross[:n] + wb @ centre, cross[n:] + bb @ centre
        total = total + 2.0 * centre @ cross[n:] + centre @ bb @ centre
        log_det = log_det + 2.0 * jnp.log(jnp.diagonal(root)).sum() + 2.0 * jnp.log(jnp.asarray(emulator.sd)).sum()
        left = ww - wb @ solve(wb.T)
        packed = jnp.concatenate([left[upper], w - wb @ solve(b), jnp.stack([total - b @ solve(b), log_det])])
        return packed, solve(b) - centre, solve(wb.T)

    packed, a, by_phi = jax.vmap(one)(sums, jnp.asarray(stars.centre))
    return PackedSpectrum(packed[:, None], stars.packed.turn, stars.packed.n_seen), (a, by_phi)
