"""Abundances as the arrays of a mixture, in units of their spread; where chains begin, and what they are judged on."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from hbcal._typing import AnyArray, Array
from hbcal.catalogue.abundances import Abundances
from hbcal.infer.moves import Moves
from hbcal.infer.task import Task
from hbcal.mixture_calibration import calibrated_scales, cut_sweep, joint_sweep
from hbcal.mixture_moves import Sites, scales, sweep
from hbcal.numerics.star_draws import draw_component
from hbcal.numerics.star_mixture import log_joint
from hbcal.numerics.stars import Stars, lower, pack_stars, unblocked
from hbcal.population_recipe import MixtureSpec, PopulationRecipe
from hbcal.population_start import mixture_start
from hbcal.programs.dp_mixture import MixtureDesign, MixturePriors, components, dp_mixture
from hbcal.programs.dp_mixture_calibrated import dp_mixture_calibrated

N_POINT = 50  # fixed points of the density, and pairs of stars, that convergence is judged on
OCCUPIED = 0.01  # share of the stars that makes a component a population
FIRST = 2  # stars per element that a chain begins with: hardly more than the prior
NOISE = {"stick": 0.3, "sd": 0.3, "background": 0.5}  # of the copy that the steps of NUTS are taken from, unconstrained


@dataclass(frozen=True)
class Posed:
    """A mixture ready to be sampled.

    Attributes:
        centre, unit: of each element, (n_element,): scaled = (value - centre) / unit.
        task: for `hbcal.infer.sample`.
        points: where the density is followed, (n_point, n_element), scaled.
        pairs: of stars whose co-clustering is followed, (n_pair, 2), row numbers.
    """

    centre: np.ndarray
    unit: np.ndarray
    task: Task
    points: np.ndarray
    pairs: np.ndarray


def pose(abundances: Abundances, recipe: PopulationRecipe, sweeps: int, *, joint: bool = False) -> Posed:
    """Scale the stars, find starts, choose what convergence is judged on.

    Args:
        abundances: of `read_abundances`.
        recipe: of populations.
        sweeps: of Gibbs' sampler before each draw.
        joint: whether the stars have a say in a calibration that they share; else it is cut.

    Returns:
        `Posed`.

    Errors:
        None: what cannot be fitted is refused where it is read.

    Example:
        >>> posed = pose(tiny_abundances(), tiny_populations(), 1)
        >>> posed.task.args[0].n_dim, posed.pairs.shape
        (2, (50, 2))
    """
    centre, unit = scale_of(abundances.value)
    stars = scaled(abundances, centre, unit)
    value = (abundances.value - centre) / unit
    rng = np.random.default_rng(0)
    points = np.nan_to_num(value[rng.integers(len(value), size=N_POINT)])
    pairs = np.stack([rng.choice(len(value), 2, replace=False) for _ in range(N_POINT)])
    nothing = np.zeros((N_POINT, len(unit), len(unit)))
    design = MixtureDesign(
        stars, pack_stars(points, nothing), pairs, n_star=len(value), n_dim=len(unit), n_comp=recipe.mixture.components
    )  # fmt: skip
    most, filled = min(recipe.mixture.components, len(value)), np.nan_to_num(value)
    sizes = [min(size, most) for size in (most, most // 2 or 1, 3, 1)]  # too many and too few of them
    starts = tuple(
        mixture_start(filled, sizes[chain % 4], recipe.mixture, chain) for chain in range(recipe.sampling.chains)
    )
    n_shift, move, scale = stars.shift.shape[2], sweep, scales
    if n_shift:
        starts = tuple({**start, "calibration": np.zeros(n_shift)} for start in starts)
        move, scale = joint_sweep if joint else cut_sweep, calibrated_scales
    held = ("calibration",) if n_shift and not joint else ()
    moves = Moves(move, scale, NOISE, sweeps, held, growing)
    task = Task(
        dp_mixture_calibrated if n_shift else dp_mixture, (design, stars.value),
        {"priors": priors_of(recipe.mixture)}, starts[0], complete=functionals, moves=moves, starts=starts,
    )  # fmt: skip
    return Posed(centre, unit, task, points, pairs)


def growing(chain: int, done: float, design: MixtureDesign, y: AnyArray) -> tuple[MixtureDesign, AnyArray]:
    """A part of the stars, drawn anew for each chain, that grows by equal factors: `hbcal.infer.moves.Moves.grow`.

    Components of a few stars come and go; once there are a thousand, a component too many, or one in the wrong place,
    is one that no chain gets rid of.

    Args:
        chain: its number.
        done: 0 for `FIRST` stars per element, 1 for all.
        design, y: of the program.

    Returns:
        The same, with `real` 0 for stars that wait.

    Errors:
        None.

    Example:
        >>> design, y = pose(tiny_abundances(), tiny_populations(), 1).task.args
        >>> [int(growing(0, done, design, y)[0].stars.real.sum()) for done in (0.0, 0.5, 1.0)]
        [4, 22, 120]

    Source: Chopin 2002, Biometrika 89, 539, where data come in one after the other, too.
    """
    n, real = design.n_star, np.asarray(design.stars.real)
    n_first = min(FIRST * design.n_dim, n)
    here = np.random.default_rng(chain).permutation(n)[: round(n_first ** (1.0 - done) * n**done)]
    part = np.zeros(real.size)
    part[here] = 1.0
    return replace(design, stars=replace(design.stars, real=real * part.reshape(real.shape))), y


def priors_of(spec: MixtureSpec) -> MixturePriors:
    """The program's priors of a recipe.

    Args:
        spec: of the recipe.

    Returns:
        `MixturePriors`, scaled.

    Errors:
        None.

    Example:
        >>> priors_of(MixtureSpec(mean=2.0)).mean
        2.0
    """
    return MixturePriors(
        spec.concentration, spec.mean, spec.sd, spec.correlation, spec.background, spec.background_sd
    )  # fmt: skip


def scale_of(value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middle and spread of each element: median, and 1.4826 times the median distance from it.

    Args:
        value: (n_star, n_element), NaN where missing.

    Returns:
        (n_element,) each; 0 and 1 for an element that no star has.

    Errors:
        None.

    Example:
        >>> centre, unit = scale_of(np.array([[1.0, np.nan], [2.0, np.nan], [3.0, np.nan]]))
        >>> centre.tolist(), unit.tolist()
        ([2.0, 0.0], [1.4826, 1.0])
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an element that no star has
        centre = np.nanmedian(value, axis=0)
        unit = 1.4826 * np.nanmedian(np.abs(value - centre), axis=0)
        sd = np.nanstd(value, axis=0)
    unit = np.where(unit > 0, unit, sd)  # where most stars share one value
    return np.nan_to_num(centre), np.where(unit > 0, unit, 1.0)


def scaled(abundances: Abundances, centre: np.ndarray, unit: np.ndarray) -> Stars:
    """Stars as the kernel wants them.

    Args:
        abundances: any.
        centre, unit: of each element.

    Returns:
        `Stars`.

    Errors:
        None.

    Example:
        >>> scaled(tiny_abundances(), np.zeros(2), np.ones(2)).value.shape
        (1, 2, 256)
    """
    shift = None if abundances.shift is None else abundances.shift / unit[:, None]
    return pack_stars((abundances.value - centre) / unit, abundances.covariance / unit[:, None] / unit[None, :], shift)


def functionals(
    key: Array, sites: Sites, design: MixtureDesign, y: Array, *, priors: MixturePriors
) -> dict[str, Array]:
    """What a draw says whatever its components are called: the numbers that convergence is judged on, and a partition.

    Args:
        key: of the partition.
        sites: one draw.
        design, y, priors: of the program.

    Returns:
        ``log_density`` at the points, ``coclustering`` of the pairs (sum over components of the product of the two
        stars' responsibilities), ``n_occupied`` (components with 1% of the stars), ``component`` of each star, drawn.

    Errors:
        None.

    Example:
        >>> posed = pose(tiny_abundances(), tiny_populations(), 1)
        >>> found = functionals(jax.random.PRNGKey(0), posed.task.start, *posed.task.args, **posed.task.kwargs)
        >>> found["log_density"].shape, found["component"].shape
        ((50,), (120,))
    """
    log_weight, mean, root = components(sites, priors)
    covariance, n_star = lower(root @ jnp.swapaxes(root, 1, 2)), design.n_star
    stars = design.stars.with_value(y)
    stars = stars.moved(sites["calibration"]) if "calibration" in sites else stars
    joint = log_joint(stars, log_weight, mean, covariance)
    share = unblocked(jax.nn.softmax(joint, axis=1), n_star)
    first, second = share[jnp.asarray(design.pairs[:, 0])], share[jnp.asarray(design.pairs[:, 1])]
    density = jax.nn.logsumexp(log_joint(design.points, log_weight, mean, covariance), axis=1)
    drawn = unblocked(draw_component(key, joint), n_star)
    return {
        "coclustering": (first * second).sum(1), "log_density": unblocked(density, N_POINT),
        "n_occupied": (share[:, :-1].mean(0) >= OCCUPIED).sum(), "component": drawn.astype(jnp.int8),
    }  # fmt: skip
