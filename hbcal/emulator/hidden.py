"""Features of the labels that a network finds: its last hidden layer, before each pixel gets weights of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hbcal._typing import Array
from hbcal.emulator.pixels import Hidden
from hbcal.networks.train import TrainSettings, fit
from hbcal.numerics.principal import principal_scores

N_HIDDEN, N_LAST, N_DIM = 64, 32, 60
HELD = 0.1
SETTINGS = TrainSettings(epochs=800, batch=64, rate=3e-3, decay=1e-4, every=20)


class Net(nnx.Module):
    """Labels to components of the spectrum: [1, x, tanh(B gelu(A x))] times a matrix."""

    def __init__(self, n_label: int, n_dim: int, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(n_label, N_HIDDEN, rngs=rngs)
        self.last = nnx.Linear(N_HIDDEN, N_LAST, rngs=rngs)
        self.out = nnx.Linear(N_LAST + n_label, n_dim, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Components."""
        return self.out(jnp.concatenate([x, jnp.tanh(self.last(jax.nn.gelu(self.first(x))))], axis=-1))


def train_hidden(
    x: np.ndarray, flux: np.ndarray, flux_err: np.ndarray, *, seed: int = 0, settings: TrainSettings = SETTINGS,
    state: Path | None = None, progress: Callable[[str], None] = lambda text: None,
) -> tuple[Hidden, np.ndarray]:  # fmt: skip
    """Train a network on chi2, and keep its features.

    Chi2 is taken in the spectra's principal components, see `hbcal.numerics.principal`, so that the cost does not hang
    on the number of pixels.

    Args:
        x: labels, scaled, (n_star, n_label).
        flux, flux_err: (n_star, n_pix), NaN where missing.
        seed: of start and order.
        settings: `TrainSettings`.
        state: file to keep the state of training in.
        progress: called with lines of text.

    Returns:
        `Hidden`, and the learning curve.

    Errors:
        None.

    Example:
        >>> spectra = tiny_spectra()
        >>> few = replace(SETTINGS, epochs=2)
        >>> hidden, curve = train_hidden(spectra.labels / 5000.0, spectra.flux, spectra.flux_err, settings=few)
        >>> hidden.last.shape, curve.shape
        ((64, 32), (2, 2))
    """
    z = principal_scores(flux, flux_err, N_DIM)
    unit = max(float(z.std(axis=0).max()), 1.0)
    order = np.random.default_rng(seed).permutation(len(z))
    n_held = max(round(HELD * len(z)), 1)
    table = {"x": jnp.asarray(x, jnp.float32), "z": jnp.asarray(z / unit, jnp.float32)}
    data, held = ({name: leaf[rows] for name, leaf in table.items()} for rows in (order[n_held:], order[:n_held]))
    net = Net(x.shape[1], z.shape[1], nnx.Rngs(seed))

    def off(net: Net, batch: dict[str, Array]) -> Array:
        return ((net(batch["x"]) - batch["z"]) ** 2).mean()

    def say(at: int, loss: float, score: float) -> None:
        if (at + 1) % settings.every == 0:  # epochs are short and many
            progress(
                f"training: features of the labels, epoch {at + 1} of {settings.epochs}, loss {loss:.3g}, "
                f"score on unseen stars {score:.3g}"
            )

    curve = fit(
        net, lambda net, batch, key: off(net, batch), lambda net: -off(net, held), data, replace(settings, seed=seed),
        state=state, progress=say,
    )  # fmt: skip
    progress(f"training: features of the labels, {len(curve)} epochs, unseen stars off by {-curve[:, 1].max():.3g}")
    leaves: Any = (net.first.kernel, net.first.bias, net.last.kernel, net.last.bias)
    return Hidden(*(np.asarray(leaf[...], float) for leaf in leaves)), curve
