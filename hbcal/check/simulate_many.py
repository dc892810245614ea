"""Posteriors of many simulated data sets in one compiled call: what simulation-based calibration needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.handlers import seed, trace
from numpyro.infer import MCMC, NUTS
from numpyro.infer.initialization import init_to_median


def prior_and_data(
    program: Callable[..., Any], args: tuple[Any, ...], n: int, seed_number: int, **kwargs: Any
) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """Draw n sets of parameters and data from a program with its data left out.

    Args:
        program: called as ``program(*args, **kwargs)``; its sites that start with ``y_`` are the data.
        args: its arguments before the data.
        n: number of simulations.
        seed_number: of the random numbers.
        **kwargs: its keyword arguments.

    Returns:
        Parameters, site -> (n, ...); data, one array (n, ...) per ``y_`` site, in the program's order and units.

    Errors:
        ValueError when the program has no data site.

    Example:
        >>> import numpyro, numpyro.distributions as dist
        >>> def program(width):
        ...     mu = numpyro.sample("mu", dist.Normal(0.0, width))
        ...     numpyro.sample("y_1", dist.Normal(mu, 1.0))
        >>> parameters, data = prior_and_data(program, (1.0,), 5, 0)
        >>> parameters["mu"].shape, data[0].shape
        ((5,), (5,))
    """

    def one(key):
        sites = trace(seed(program, key)).get_trace(*args, **kwargs)
        drawn = {k: v["value"] for k, v in sites.items() if v["type"] == "sample"}
        # data in a tuple: a dict that passes through JAX comes back in alphabetical order
        return {k: v for k, v in drawn.items() if k[:2] != "y_"}, tuple(v for k, v in drawn.items() if k[:2] == "y_")

    parameters, data = jax.device_get(jax.jit(jax.vmap(one))(jax.random.split(jax.random.PRNGKey(seed_number), n)))
    if not data:
        raise ValueError("the program has no site whose name starts with 'y_'.")
    return parameters, list(data)


def posteriors(
    program: Callable[..., Any],
    args: tuple[Any, ...],
    data: list[np.ndarray],
    *,
    warmup: int,
    draws: int,
    thin: int,
    seed_number: int,
    complete: Callable[..., dict[str, Any]] | None = None,
    batch: int = 28,
    **kwargs: Any,
) -> dict[str, np.ndarray]:
    """Run NUTS on every data set with one compilation, one after the other.

    Side by side (vmap) every chain would wait for the longest trajectory of all.

    Args:
        program: called as ``program(*args, y, **kwargs)``, y a tuple with one array per data site.
        args: its arguments before the data.
        data: arrays (n, ...), as `prior_and_data` gives them.
        warmup, draws: per data set, one chain.
        thin: every how many draws one is kept.
        seed_number: of the random numbers.
        complete: as in `hbcal.infer.task.Task`.
        batch: data sets per call.
        **kwargs: the program's keyword arguments.

    Returns:
        Site -> (n, draws // thin, ...).

    Errors:
        None.

    Example:
        >>> import numpyro, numpyro.distributions as dist
        >>> def program(width, y=None):
        ...     mu = numpyro.sample("mu", dist.Normal(0.0, width))
        ...     numpyro.sample("y_1", dist.Normal(mu, 1.0), obs=None if y is None else y[0])
        >>> _, data = prior_and_data(program, (1.0,), 4, 0)
        >>> posteriors(program, (1.0,), data, warmup=20, draws=20, thin=2, seed_number=1)["mu"].shape
        (4, 10)
    """

    def one(key, *y):
        key_run, key_exact = jax.random.split(key)
        kernel = NUTS(program, dense_mass=True, max_tree_depth=7, init_strategy=init_to_median(num_samples=15))
        mcmc = MCMC(kernel, num_warmup=warmup, num_samples=draws, thinning=thin, progress_bar=False)
        mcmc.run(key_run, *args, tuple(y), **kwargs)
        sites = mcmc.get_samples()
        if complete is not None:
            n_kept = draws // thin
            exact = jax.vmap(lambda k, s: complete(k, s, *args, tuple(y), **kwargs))
            sites = {**sites, **exact(jax.random.split(key_exact, n_kept), sites)}
        return sites

    n = len(data[0])
    run = jax.jit(lambda items: jax.lax.map(lambda item: one(*item), items))
    keys = jax.random.split(jax.random.PRNGKey(seed_number), n)
    parts = []
    for start in range(0, n, batch):
        pick = np.minimum(np.arange(start, start + batch), n - 1)  # the last batch is filled up, then cut
        parts.append(jax.device_get(run((keys[pick], *(jnp.asarray(y[pick]) for y in data)))))
    return {k: np.concatenate([p[k] for p in parts])[:n] for k in parts[0]}
