"""Train a network by gradient steps: early stopping, learning curves, and a state on disk that survives a kill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from hbcal._typing import Array
from hbcal.folder import write_npz

Loss = Callable[[Any, Any, Array], Array]  # network, batch, key -> a number


@dataclass(frozen=True)
class TrainSettings:
    """How long and how fast.

    Attributes:
        epochs: passes over the training stars.
        batch: stars a step.
        rate: highest learning rate of the one-cycle schedule.
        decay: weight decay, of kernels alone.
        seed: of order and dropout.
        every: epochs between two states on disk.
    """

    epochs: int = 45
    batch: int = 256
    rate: float = 2e-3
    decay: float = 1e-3
    seed: int = 0
    every: int = 5


def fit(
    net: nnx.Module, loss: Loss, score: Callable[[Any], Array], data: Any, settings: TrainSettings, *,
    state: Path | None = None, progress: Callable[[int, float, float], None] = lambda epoch, loss, score: None,
) -> np.ndarray:  # fmt: skip
    """Train a network in place; what it ends with is the epoch of the highest score.

    Args:
        net: to train.
        loss: of a network in training mode, a batch (rows of `data`) and a key.
        score: of a network in evaluation mode, on stars that are not in `data`; higher is better.
        data: pytree of arrays with a leading axis of stars.
        settings: `TrainSettings`.
        state: file to keep the state of training in, and to go on from where it is there; None keeps none.
        progress: told the epoch, the mean loss and the score.

    Returns:
        The learning curve: loss and score of each epoch, (n_epoch, 2).

    Errors:
        None; an unreadable state is as good as none.

    Example:
        >>> net = nnx.Linear(1, 1, rngs=nnx.Rngs(0))
        >>> x = jnp.linspace(-1.0, 1.0, 64)[:, None]
        >>> off = lambda net, batch, key: ((net(batch[0]) - batch[1]) ** 2).mean()
        >>> settings = TrainSettings(epochs=60, batch=16, rate=0.05)
        >>> curve = fit(net, off, lambda net: -off(net, (x, 3.0 * x), None), (x, 3.0 * x), settings)
        >>> round(float(net.kernel[...][0, 0]), 1), curve.shape
        (3.0, (60, 2))
    """
    parts: Any = nnx.split(net, nnx.Param, ...)
    graph, params, rest = parts
    n_star = len(jax.tree.leaves(data)[0])
    batch = min(settings.batch, n_star)
    n_batch = n_star // batch
    rate = optax.cosine_onecycle_schedule(settings.epochs * n_batch, settings.rate, 0.1)
    kernels = jax.tree.map(lambda leaf: leaf.ndim > 1, params)
    rule = optax.chain(
        optax.clip_by_global_norm(20.0), optax.adamw(rate, weight_decay=settings.decay, mask=lambda _: kernels)
    )
    data = jax.tree.map(jnp.asarray, data)

    def cost(params: Any, rows: Array, key: Array) -> Array:
        there = nnx.merge(graph, params, rest, copy=True)
        there.train()
        nnx.reseed(there, dropout=key)
        return loss(there, jax.tree.map(lambda leaf: leaf[rows], data), jax.random.fold_in(key, 1))

    def step(carry: Any, given: Any) -> tuple[Any, Array]:
        params, moments = carry
        value, slope = jax.value_and_grad(cost)(params, *given)
        update, moments = rule.update(slope, moments, params)
        return (optax.apply_updates(params, update), moments), value

    def scored(params: Any) -> Array:
        there = nnx.merge(graph, params, rest, copy=True)
        there.eval()
        return score(there)

    @jax.jit
    def epoch(carry: Any, rows: Array, keys: Array) -> tuple[Any, Array, Array]:
        carry, values = jax.lax.scan(step, carry, (rows, keys))
        return carry, values.mean(), scored(carry[0])

    carry, best, curve = (params, rule.init(params)), params, np.zeros((0, 2))
    (carry, best), curve = _resumed(state, (carry, best), curve)
    for at in range(len(curve), settings.epochs):
        order = np.random.default_rng([settings.seed, at]).permutation(n_star)[: n_batch * batch]
        keys = jax.random.split(jax.random.fold_in(jax.random.PRNGKey(settings.seed), at), n_batch)
        carry, value, told = epoch(carry, jnp.asarray(order.reshape(n_batch, batch)), keys)
        if float(told) > curve[:, 1].max(initial=-np.inf):
            best = carry[0]
        curve = np.concatenate([curve, [[float(value), float(told)]]])
        progress(at, *curve[-1])
        if state is not None and ((at + 1) % settings.every == 0 or at + 1 == settings.epochs):
            leaves = jax.device_get(jax.tree.leaves((carry, best)))
            write_npz(state, {"curve": curve, **{f"leaf{i}": leaf for i, leaf in enumerate(leaves)}})
    nnx.update(net, best)
    return curve


def _resumed(state: Path | None, fresh: tuple[Any, Any], curve: np.ndarray) -> tuple[Any, np.ndarray]:
    """What the file holds, or what was given."""
    leaves, tree = jax.tree.flatten(fresh)
    try:
        if state is not None and state.is_file():
            with state.open("rb") as handle, np.load(handle) as saved:
                found = [jnp.asarray(saved[f"leaf{i}"]) for i in range(len(leaves))]
                return jax.tree.unflatten(tree, found), saved["curve"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        pass
    return fresh, curve
