"""What every emulator is: labels in, the density of a spectrum out, and what it was trained on."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hbcal._pytree import pytree, static
from hbcal._typing import AnyArray, Array, Float
from hbcal.numerics.importance import newton_mode
from hbcal.numerics.label_density import LabelDensity, label_density

SOFTENING = 0.3  # of asinh, in units of a star's median flux: spectra of hot and cool stars alike are then near linear
MOST_MISSING = 0.1  # of the pixels, of spectra whose unit is their median: it moves with what is missing
N_START = 500  # training stars, among which a search for a mode begins
ROUNDS = 4  # of filling in pixels and taking the median again
DARK = "no light"  # why a spectrum whose pixels are there has no answer: their median is not positive


class Predicted(NamedTuple):
    """A spectrum as an emulator expects it: N(mean, diag(variance) + root root').

    Attributes:
        mean: (n_pix,), as it is given or, where an emulator is of stretched flux, after `stretched`.
        variance: of each pixel on its own, (n_pix,).
        root: of what pixels have in common, (n_pix, n).
    """

    mean: AnyArray
    variance: AnyArray
    root: AnyArray


@pytree
class Known:
    """What an emulator knows of its training stars.

    Attributes:
        centre, unit: of the labels, (n_label,): x = (label - centre) / unit.
        density: of x, the default prior.
        typical: ln p(x) of training stars, sorted: what counts as outside.
        usual: misfit of training spectra, sorted: what counts as a misfit.
        spread: log of the factor on a label's sd, linear in what `hbcal.numerics.spread.signs` says of a star,
            (n_sign, n_label); zeros where a posterior needs none.
        tail: 1 / degrees of freedom of the Student t that draws are pushed out to, and per label the log of a further
            factor on them, see `hbcal.numerics.tails.fit_tail`, (1 + n_label,); zeros where a posterior needs none.
        kept: share of the correlations between a posterior's labels that is kept, see `hbcal.numerics.spread.fit_kept`.
        starts: labels of some training stars, (n_start, n_label), among which a search for a mode begins.
        wave: (n_pix,).
        label_names: (n_label,).
        meta_names: (n_meta,), of what is measured beside the spectrum, such as magnitudes, and is data as pixels are.
        normalise: width of the smooth curve that spectra are divided by before the emulator sees them; 0 for none.
    """

    centre: AnyArray
    unit: AnyArray
    density: LabelDensity
    typical: AnyArray
    usual: AnyArray
    spread: AnyArray
    tail: AnyArray
    kept: AnyArray
    starts: AnyArray
    wave: AnyArray
    label_names: tuple[str, ...] = static()
    meta_names: tuple[str, ...] = static(default=())
    normalise: float = static(default=0.0)

    def around(self, x: np.ndarray) -> Known:
        """The same, of training stars whose labels are x, (n_star, n_label), scaled."""
        density, typical, starts = population_of(x)
        return replace(self, density=density, typical=typical, starts=starts)


def population_of(x: np.ndarray) -> tuple[LabelDensity, np.ndarray, np.ndarray]:
    """Where the training stars are among labels.

    Args:
        x: their labels, scaled, (n_star, n_label).

    Returns:
        `density`, `typical` and `starts` of `Known`.

    Errors:
        None.

    Example:
        >>> density, typical, starts = population_of(np.random.default_rng(0).normal(size=(600, 2)))
        >>> typical.shape, starts.shape
        ((600,), (500, 2))
    """
    density = label_density(x)
    typical = np.sort(np.asarray(jax.lax.map(density.log_density, jnp.asarray(x), batch_size=1024)))
    return density, typical, x[np.random.default_rng(0).permutation(len(x))[:N_START]]


class Emulator:
    """A spectrum's density given its star's labels, emulator error included. Subclasses are final, and pytrees.

    ``read`` turns spectra into what the density needs of them, once, star by star on the leading axis; ``guess`` takes
    all of it, the two other methods one star. ``stretches`` says whether it is of `stretched` flux. ``n_draw`` says how
    many weighted draws the posterior of a star is worth: the Monte Carlo error of a covariance from n draws makes joint
    regions too small, as if n were the size of a sample (Hotelling's T2), and is dear to avoid where a density is dear.
    """

    known: Known
    stretches = True
    n_draw = 96

    @abstractmethod
    def read(
        self, flux: np.ndarray, flux_err: np.ndarray, meta: np.ndarray | None = None, corr: np.ndarray | None = None
    ) -> tuple[Any, np.ndarray]:
        """Spectra as the emulator sees them, and a sentence for each that it cannot use, empty where it can.

        `meta` is (n_star, n_meta) in the order of `Known.meta_names`; None where these are none. `corr` is
        ``flux_corr`` of the spectra; emulators that learned how pixels vary together do not ask for it.
        """

    @abstractmethod
    def log_likelihood(self, x: Float[Array, " n_label"], star: Any) -> Array:
        """ln p(spectrum | labels), up to a number that does not hang on the labels."""

    @abstractmethod
    def misfit(self, x: Float[Array, " n_label"], star: Any) -> Array:
        """Squared residual in units of its variance, averaged: about 1 where emulator and noise are right."""

    @abstractmethod
    def predict(self, x: Float[Array, " n_label"]) -> Predicted:
        """The spectrum at some labels, without photon noise where that is given with each spectrum."""

    @abstractmethod
    def guess(self, stars: Any) -> tuple[Array, Array]:
        """Where labelling begins: labels (n_star, n_label), and roots of covariances (n_star, n_label, n_label).

        It need not be right, since what is drawn there is weighed by the density; `mode_near` serves any emulator.
        """


def median_of(flux: np.ndarray) -> np.ndarray:
    """Each spectrum's median over the pixels it has: the unit its flux is taken in.

    Args:
        flux: (n_star, n_pix), NaN where missing.

    Returns:
        (n_star, 1); NaN where it is not positive.

    Errors:
        None.

    Example:
        >>> median_of(np.array([[1.0, np.nan, 3.0], [-1.0, -1.0, 0.0]])).ravel().tolist()
        [2.0, nan]
    """
    some = np.isfinite(flux).any(axis=1, keepdims=True)
    median = np.nanmedian(np.where(some, flux, 0.0), axis=1, keepdims=True)
    return np.where(median > 0, median, np.nan)


def longest_gap(flux: np.ndarray) -> np.ndarray:
    """How many neighbouring pixels are missing at most.

    Args:
        flux: (n_star, n_pix), NaN where missing.

    Returns:
        (n_star,).

    Errors:
        None.

    Example:
        >>> longest_gap(np.array([[1.0, np.nan, np.nan, 1.0, np.nan]])).tolist()
        [2]
    """
    run, longest = np.zeros((2, len(flux)), int)
    for missing in ~np.isfinite(flux).T:
        run = np.where(missing, run + 1, 0)
        longest = np.maximum(longest, run)
    return longest


def why_not(flux: np.ndarray, missing: float = 0.0, neighbours: float = 1.0) -> np.ndarray:
    """Why an emulator that takes spectra in units of their median cannot use some.

    Args:
        flux: (n_star, n_pix), NaN where missing.
        missing: which share of the pixels may be.
        neighbours: which share may be in one gap; a single pixel always may.

    Returns:
        (n_star,): empty where it can; ``"missing pixels"``; or `DARK` where they are there, but their median is not
        positive.

    Errors:
        None.

    Example:
        >>> why_not(np.array([[1.0, 1.0], [np.nan, 1.0], [-1.0, 0.5]])).tolist()
        ['', 'missing pixels', 'no light']
    """
    there = np.isfinite(flux).mean(axis=1) >= 1.0 - missing
    long = longest_gap(flux) > max(neighbours * flux.shape[1], 1.0)
    dark = np.isnan(median_of(flux))[:, 0]
    return np.select([~there, dark, long], ["missing pixels", DARK, "missing pixels"], "")


def stretched(flux: np.ndarray) -> np.ndarray:
    """arcsinh(flux / (0.3 median flux)): where reddening shifts a spectrum rather than bending it.

    Args:
        flux: (n_star, n_pix).

    Returns:
        The same shape; NaN where a pixel is missing or the median is not positive.

    Errors:
        None.

    Example:
        >>> stretched(np.array([[0.0, 2.0, 2.0]])).round(2).tolist()
        [[0.0, 1.92, 1.92]]
    """
    return np.arcsinh(flux / (SOFTENING * median_of(flux)))


def stretched_whole(flux: np.ndarray, fill: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """`stretched`, in units of the median of all pixels, for which those that are missing are filled in.

    Why: without the blue tenth of its pixels the median of a star is by some per cent another.

    Args:
        flux: (n_star, n_pix).
        fill: stretched flux with gaps in, without them out; for spectra that `MOST_MISSING` leaves an answer.

    Returns:
        Stretched flux, NaN where `flux` is, and the unit, (n_star, 1).

    Errors:
        None.

    Example:
        >>> flux = np.concatenate([np.arange(1.0, 20.0), [np.nan]])[None]
        >>> float(stretched_whole(flux, lambda y: np.where(np.isnan(y), 9.0, y))[1][0, 0])
        10.5
    """
    unit = median_of(flux)
    y = np.arcsinh(flux / (SOFTENING * unit))
    rows = np.flatnonzero((why_not(flux, MOST_MISSING) == "") & np.isnan(flux).any(axis=1))
    for _ in range(ROUNDS if rows.size else 0):
        unit[rows] *= np.median(SOFTENING * np.sinh(fill(y[rows])), axis=1, keepdims=True)
        y[rows] = np.arcsinh(flux[rows] / (SOFTENING * unit[rows]))
    return y, unit


def stretched_err(flux: np.ndarray, flux_err: np.ndarray, unit: np.ndarray | None = None) -> np.ndarray:
    """The errors of `stretched` flux: d arcsinh(f / b) = df / sqrt(b^2 + f^2), b = 0.3 median flux.

    Args:
        flux, flux_err: (n_star, n_pix).
        unit: in place of the median, (n_star, 1).

    Returns:
        The same shape.

    Errors:
        None.

    Example:
        >>> stretched_err(np.array([[0.0, 2.0, 2.0]]), np.array([[0.06, 0.0, 0.0]])).round(3).tolist()
        [[0.1, 0.0, 0.0]]
    """
    return flux_err / np.hypot(SOFTENING * (median_of(flux) if unit is None else unit), flux)


def sharing(levels: AnyArray, value: AnyArray) -> np.ndarray:
    """Which share of the training stars lies below a value.

    Args:
        levels: sorted, (n,).
        value: any shape.

    Returns:
        Between 0 and 1, the value's shape.

    Errors:
        None.

    Example:
        >>> sharing(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 2.5])).tolist()
        [0.0, 0.5]
    """
    return np.searchsorted(np.asarray(levels), np.asarray(value)) / len(np.asarray(levels))


def mode_near(emulator: Emulator, stars: Any) -> tuple[Array, Array]:
    """The mode near the likeliest training star: an `Emulator.guess` for densities without a quicker one.

    Args:
        emulator: trained.
        stars: of `Emulator.read`.

    Returns:
        Modes (n_star, n_label), under the training stars' density, and roots of the covariances there
        (n_star, n_label, n_label).

    Errors:
        None.

    Example:
        >>> emulator = tiny_emulator()
        >>> stars, _ = emulator.read(tiny_spectra().flux[:3], tiny_spectra().flux_err[:3])
        >>> mode_near(emulator, stars)[1].shape
        (3, 2, 2)
    """
    starts = jnp.asarray(emulator.known.starts)

    def one(star: Any) -> tuple[Array, Array]:
        joint = lambda x: emulator.log_likelihood(x, star) + emulator.known.density.log_density(x)  # noqa: E731
        return newton_mode(joint, starts[jnp.argmax(jax.lax.map(joint, starts))])

    return jax.vmap(one)(stars)
