"""Train the networks of an autoregressive emulator, and the guide that starts its samplers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hbcal._typing import Array, Float
from hbcal.emulator.autoregressive import FAR, AutoregressiveEmulator, Seen, components
from hbcal.emulator.base import Known
from hbcal.networks.autoregressive import Autoregressive, asleep, linear_start, stacked
from hbcal.networks.guide import Guide
from hbcal.networks.train import TrainSettings, fit
from hbcal.numerics.label_density import LabelDensity

TEMPERS = np.geomspace(0.4, 1.6, 25)
NEAR = (0.2, 1.5)  # how far rivals lie, in sd of the labels given the spectrum by a linear model


@dataclass(frozen=True)
class NetworkSettings:
    """The size of the networks, and what they are trained to.

    Attributes:
        n_dim: components of a spectrum.
        n_lead: components that bend the others.
        n_net: networks.
        hidden: width of their two layers.
        dropout: share of hidden units silenced in training.
        contrast: weight of telling a star's labels from rivals, beside the likelihood's 1.
        n_rival: rivals of a star.
        train: of each network.
    """

    n_dim: int = 60
    n_lead: int = 15
    n_net: int = 4
    hidden: int = 256
    dropout: float = 0.1
    contrast: float = 20.0
    n_rival: int = 7
    train: TrainSettings = field(default_factory=TrainSettings)


def contrast(
    log_likelihood: Callable[[Array], Array], density: LabelDensity, x: Float[Array, "n n_label"], width: Array,
    key: Array, n_rival: int,
) -> Array:  # fmt: skip
    """ln of the posterior probability of each star's labels among rivals that lie as near.

        ln [ p(s | x_0) p(x_0) / sum_j p(s | x_j) p(x_j) ],   x_j ~ N(c, r^2),  c ~ N(x_0, r^2)

    Truth and rivals are exchangeable around the unseen centre c, so that this is a proper score of the posterior: no
    emulator does better on average than the true density. The likelihood alone is a score of all components equally;
    this one asks only how they change with the labels. r is drawn anew for every star, log-uniform between `NEAR`.

    Args:
        log_likelihood: of labels (n_rival + 1, n, n_label), for each star's own spectrum: (n_rival + 1, n).
        density: the prior.
        x: true labels of the stars, scaled.
        width: (n_label,), the unit of r.
        key: of the rivals.
        n_rival: how many.

    Returns:
        (n,), at most 0; -ln(n_rival + 1) where the spectrum tells nothing.

    Errors:
        None.

    Example:
        >>> density, x = tiny_emulator().known.density, jnp.zeros((3, 2))
        >>> told = contrast(lambda xs: -50.0 * (xs**2).sum(-1), density, x, jnp.ones(2), jax.random.PRNGKey(0), 7)
        >>> bool((told > -jnp.log(8.0)).all())
        True

    Source: a ratio of likelihoods learned from examples (Cranmer et al. 2015, arXiv:1506.02169; Miller et al. 2022,
        NeurIPS, contrastive form), here with the likelihood's own density.
    """
    key_far, key_centre, key_rival = jax.random.split(key, 3)
    low, high = np.log(NEAR)
    far = jnp.exp(jax.random.uniform(key_far, (len(x), 1), x.dtype, low, high)) * width[None, :].astype(x.dtype)
    centre = x + far * jax.random.normal(key_centre, x.shape, x.dtype)
    rivals = centre[None] + far[None] * jax.random.normal(key_rival, (n_rival, *x.shape), x.dtype)
    every = jnp.concatenate([x[None], rivals])
    return jax.nn.log_softmax(log_likelihood(every) + density.log_density(every), axis=0)[0]


def train_networks(
    known: Known, flux: np.ndarray, flux_err: np.ndarray, mean: np.ndarray, root: np.ndarray, width: np.ndarray,
    unseen: np.ndarray, rows: np.ndarray, settings: NetworkSettings, *, meta: np.ndarray | None = None,
    folder: Path | None = None, progress: Callable[[str], None] = lambda text: None,
) -> tuple[AutoregressiveEmulator, dict[str, np.ndarray]]:  # fmt: skip
    """Train networks and guide on all stars but some, and temper their density on those.

    Args:
        known: of the training stars.
        flux, flux_err: (n_star, n_pix), of stars whose every pixel is seen.
        mean, root: each star's true labels as far as known, mean and root of the covariance, scaled.
        width: sd of labels given the spectrum by a linear model, (n_label,).
        unseen: rows that stop the training early and set the temper.
        rows: those that are trained on.
        settings: `NetworkSettings`.
        meta: (n_star, n_meta), as `Emulator.read` takes it.
        folder: where the state of the training is kept.
        progress: called with lines of text.

    Returns:
        The emulator, and the learning curve of each network by name.

    Errors:
        None.

    Example:
        >>> spectra, known = tiny_spectra(), tiny_emulator().known
        >>> x = (spectra.labels - known.centre) / known.unit
        >>> few = NetworkSettings(n_dim=5, n_lead=2, n_net=1, hidden=8, train=TrainSettings(epochs=2))
        >>> exact, rows = (x, np.zeros((400, 2, 2)), np.full(2, 0.1)), (np.arange(40), np.arange(40, 400))
        >>> emulator, curves = train_networks(known, spectra.flux, spectra.flux_err, *exact, *rows, few)
        >>> sorted(curves), curves["guide"].shape
        (['guide', 'net0'], (2, 2))
    """
    some = lambda at: None if meta is None else meta[at]  # noqa: E731
    found = components(flux[rows], flux_err[rows], min(settings.n_dim, flux.shape[1] - 1), some(rows))
    z, level, _ = found.of(flux, flux_err, meta)
    single = lambda v: jnp.asarray(v, jnp.float32)  # noqa: E731
    table = {
        "x": single(mean), "root": single(root), "z": single(np.clip(z, -FAR, FAR)),
        "seen": found.near(z, level),
    }  # fmt: skip
    data = {name: leaf[rows] for name, leaf in table.items()}
    held = {name: leaf[unseen] for name, leaf in table.items()}
    density = jax.tree.map(single, known.density)

    def labels_of(batch: dict[str, Array], key: Array) -> Array:
        return batch["x"] + jnp.einsum("nlm,nm->nl", batch["root"], jax.random.normal(key, batch["x"].shape))

    def told(net: Autoregressive, batch: dict[str, Array], x: Array, key: Array, n_rival: int) -> Array:
        lifted = net.lift(batch["seen"])

        def each(xs: Array) -> Array:
            return jax.vmap(lambda x: net.log_density(x, batch["z"], lifted))(xs)

        return contrast(each, density, x, single(width), key, n_rival)

    def loss(net: Autoregressive, batch: dict[str, Array], key: Array) -> Array:
        keys = jax.random.split(key)
        x = labels_of(batch, keys[0])
        likely = net.log_density(x, batch["z"], net.lift(batch["seen"])).mean()
        net.eval()  # dropout would tell rivals apart by chance
        return -likely - settings.contrast * told(net, batch, x, keys[1], settings.n_rival).mean()

    def say(m: int, at: int, off: float, good: float) -> None:
        progress(
            f"training: network {m + 1} of {settings.n_net}, epoch {at + 1} of {settings.train.epochs}, "
            f"loss {off:.3f}, score on unseen stars {good:.4f}"
        )

    nets, curves = [], {}
    for m in range(settings.n_net):
        net = Autoregressive(
            mean.shape[1], 1, z.shape[1], n_lead=settings.n_lead, hidden=(settings.hidden, settings.hidden),
            dropout=settings.dropout, rngs=nnx.Rngs(params=m, dropout=m),
        )  # fmt: skip
        linear_start(net, np.asarray(data["x"], float), np.asarray(data["seen"], float))
        curves[f"net{m}"] = fit(
            net, loss, lambda net: told(net, held, held["x"], jax.random.PRNGKey(0), 15).mean(), data,
            replace(settings.train, seed=settings.train.seed + m), state=folder and folder / f"net{m}.npz",
            progress=partial(say, m),
        )  # fmt: skip
        nets.append(net)

    guide = Guide(
        1 + z.shape[1],
        mean.shape[1],
        hidden=settings.hidden,
        dropout=settings.dropout,
        rngs=nnx.Rngs(params=0, dropout=0),
    )
    curves["guide"] = fit(
        guide, lambda net, batch, key: -net.log_density(labels_of(batch, key), batch["seen"]).mean(),
        lambda net: net.log_density(held["x"], held["seen"]).mean(), data, settings.train,
        state=folder and folder / "guide.npz",
    )  # fmt: skip

    graph, states = stacked(nets)
    guide_graph, guide_state = asleep(guide)
    emulator = AutoregressiveEmulator(known, found, jnp.ones(()), states, guide_state, graph, guide_graph)
    stars, _ = emulator.read(flux[unseen], flux_err[unseen], some(unseen))
    temper = _temper(emulator, stars, held["x"], density, single(width))
    progress(f"training: the density of unseen stars is raised to the power {temper:.2f}")
    return replace(emulator, temper=jnp.asarray(temper)), curves


def _temper(emulator: AutoregressiveEmulator, stars: Seen, x: Array, density: LabelDensity, width: Array) -> float:
    """The power of the density under which unseen stars' labels are told from rivals best."""

    @jax.jit
    def score(power: Array) -> Array:
        def each(xs: Array) -> Array:
            star_by_star = jax.vmap(emulator.log_likelihood, in_axes=(0, 0))
            return power * jax.lax.map(lambda x: star_by_star(x, stars), xs).astype(jnp.float32)

        return contrast(each, density, x, width, jax.random.PRNGKey(1), 31).mean()

    return float(TEMPERS[int(np.argmax([float(score(jnp.asarray(t, jnp.float32))) for t in TEMPERS]))])
