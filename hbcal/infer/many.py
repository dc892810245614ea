"""One program, many data sets: NUTS for all of them side by side in one compiled call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
from numpyro.infer.hmc import hmc

from hbcal._typing import Array, Float
from hbcal.infer.potential import Potential
from hbcal.infer.task import Task


@dataclass(frozen=True)
class ManySettings:
    """NUTS settings of posteriors of a few numbers whose scale is known beforehand.

    Attributes:
        chains, warmup, draws: how many; the warmup finds the step size alone.
        target_accept, max_tree_depth: of NUTS; chains in lockstep wait for the longest trajectory.
    """

    chains: int = 4
    warmup: int = 60
    draws: int = 200
    target_accept: float = 0.8
    max_tree_depth: int = 4


def sample_many(
    task: Task, site: str, data: Any, centre: Float[Array, "n d"], root: Float[Array, "n d d"], key: Array,
    settings: ManySettings = ManySettings(),
) -> tuple[Array, Array]:  # fmt: skip
    """Draw a vector site of a program for every data set.

    NUTS moves in u, x = centre + root u, where a density near N(centre, root root') is near N(0, I).

    Args:
        task: the program; its `args` are those before the data.
        site: the one sampled site, unconstrained, (d,).
        data: the program's last argument, with a leading axis.
        centre, root: of each data set.
        key: of all chains.
        settings: `ManySettings`.

    Returns:
        Draws (n, chain, draw, d) and how many transitions of each chain diverged, (n, chain).

    Errors:
        None.

    Example:
        >>> import jax.numpy as jnp
        >>> import numpyro
        >>> import numpyro.distributions as dist
        >>> def program(y):
        ...     x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
        ...     numpyro.sample("y", dist.Normal(x[0], 1.0), obs=y)
        >>> at, root = jnp.zeros((2, 1)), jnp.ones((2, 1, 1))
        >>> draws, _ = sample_many(Task(program), "x", jnp.array([0.0, 4.0]), at, root, jax.random.PRNGKey(0))
        >>> draws.shape, (jnp.abs(draws.mean((1, 2, 3)) - jnp.array([0.0, 2.0])) < 0.2).tolist()
        ((2, 4, 200, 1), [True, True])
    """
    potential = Potential(task)

    def energy(u: Array, one: Any, at: Array, turn: Array) -> Array:
        return potential.energy({site: at + turn @ u}, (*task.args, one))

    init, step = hmc(potential_fn_gen=lambda *given: lambda u: energy(u, *given), algo="NUTS")

    def chain(key: Array, *given: Any) -> tuple[Array, Array]:
        key_start, key_chain = jax.random.split(key)
        u = jax.random.normal(key_start, given[1].shape)
        state = init(
            u, num_warmup=settings.warmup, adapt_mass_matrix=False, dense_mass=False, rng_key=key_chain, step_size=0.7,
            model_args=given, target_accept_prob=settings.target_accept, max_tree_depth=settings.max_tree_depth,
        )  # fmt: skip
        state = jax.lax.fori_loop(0, settings.warmup, lambda _, s: step(s, given), state)

        def one(state: Any, _: Any) -> tuple[Any, tuple[Array, Array]]:
            state = step(state, given)
            return state, (state.z, state.diverging)

        _, (us, diverging) = jax.lax.scan(one, state, None, length=settings.draws)
        return given[1][None, :] + us @ given[2].T, diverging.sum()

    def chains(key: Array, *given: Any) -> tuple[Array, Array]:
        keys = jax.random.split(key, settings.chains)
        return jax.vmap(chain, in_axes=(0, *(None,) * len(given)))(keys, *given)

    return jax.vmap(chains)(jax.random.split(key, len(centre)), data, centre, root)
