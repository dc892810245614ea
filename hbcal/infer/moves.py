"""NUTS that takes turns with moves of one's own, and whose steps follow the state of the chain.

A mixture has components that come and go: a large one is known to a hundredth of its width, one without stars not at
all, and which is which changes from draw to draw. No fixed metric serves both. Here it is computed anew before every
transition, from a noisy copy c of the unconstrained state z,

    c ~ N(z, h^2),   u = z / s(c),

and NUTS moves in u under p(z | y) N(c | z, h^2): with c held fixed this is one more factor of the density, so that the
chain keeps to p(z | y) exactly, while its steps s fit the place where it is. (Gibbs' sampler on z and c, whose
transition of z given c is NUTS.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from numpyro.infer.hmc import hmc

if TYPE_CHECKING:
    from hbcal.infer.potential import Potential
    from hbcal.infer.task import Settings


@dataclass(frozen=True)
class Moves:
    """What happens between two transitions of NUTS.

    Attributes:
        move: module-level ``f(key, sites, *args, **kwargs) -> sites`` that leaves the posterior as it is.
        scale: module-level ``f(sites, *args, **kwargs)``: a step for each unconstrained number of each site, told by
            the sites that `noise` names; others are NaN.
        noise: site -> h, unconstrained; more than the posterior's sd, or the copy holds the chain back.
        repeat: how often `move` is called before each transition.
        held: sites that the moves alone change, and NUTS leaves as they are.
        grow: module-level ``f(chain, done, *args) -> args``: a part of the data, all of it where `done` is 1, for the
            first half of the warmup, of which the share `done` is over; or None. A chain that begins with little has
            no mode to be caught in, and ends in one that its data made, not its start.
    """

    move: Callable[..., Mapping[str, Any]]
    scale: Callable[..., Mapping[str, Any]]
    noise: Mapping[str, float] = field(default_factory=dict)
    repeat: int = 1
    held: tuple[str, ...] = ()
    grow: Callable[..., tuple[Any, ...]] | None = None


def moving_kernel(potential: Potential, settings: Settings, unravel: Callable[[Any], Any]) -> tuple[Any, Any]:
    """Start and step of a chain, for states that are flat unconstrained vectors.

    Args:
        potential: of a task with `moves`.
        settings: NUTS settings; with a `max_tree_depth` of 0 the moves are alone.
        unravel: flat vector -> sites, unconstrained.

    Returns:
        ``init(key, z, args)`` and ``step(state, args)``.

    Errors:
        None.

    Example:
        >>> import numpyro
        >>> import numpyro.distributions as dist
        >>> from hbcal.infer.potential import Potential
        >>> from hbcal.infer.task import Settings, Task
        >>> def program():
        ...     numpyro.sample("x", dist.Normal(3.0, 1.0))
        >>> moves = Moves(lambda key, sites: sites, lambda sites: {"x": jnp.array(1.0)})
        >>> potential = Potential(Task(program, moves=moves))
        >>> init, step = moving_kernel(potential, Settings(warmup=10), lambda z: {"x": z[0]})
        >>> state = init(jax.random.PRNGKey(0), jnp.zeros(1), ())
        >>> step(state, ()).z.shape
        (1,)
    """
    task = potential.task
    moves, kwargs = task.moves, dict(task.kwargs)
    assert moves is not None

    def width(z: Any) -> Any:
        named = {name: jnp.full(value.shape, moves.noise.get(name, jnp.inf)) for name, value in unravel(z).items()}
        return ravel_pytree(named)[0]

    def free(z: Any) -> Any:
        named = {name: jnp.full(value.shape, name not in moves.held) for name, value in unravel(z).items()}
        return ravel_pytree(named)[0]

    def energy(u: Any, args: Any, copy: Any, scale: Any, kept: Any) -> Any:
        z, h = jnp.where(free(u), u * scale, kept), width(u)  # in the place of what is held NUTS has numbers ~ N(0, 1)
        off = jnp.where(jnp.isfinite(h), (copy - z) / h, 0.0)
        return potential.energy(unravel(z), args) + 0.5 * (off**2).sum() + 0.5 * (jnp.where(free(u), 0.0, u) ** 2).sum()

    begin, nuts = hmc(potential_fn_gen=lambda *given: lambda u: energy(u, *given), algo="NUTS")

    def near(key: Any, z: Any, args: Any) -> tuple[Any, Any]:
        """The noisy copy, NaN where none is taken, and the steps it asks for."""
        copy = z + jnp.where(jnp.isfinite(width(z)), width(z), jnp.nan) * jax.random.normal(key, z.shape)
        steps = moves.scale(potential.sites(unravel(copy), args), *args, **kwargs)
        return jnp.nan_to_num(copy), ravel_pytree({name: steps[name] for name in unravel(z)})[0]

    def init(key: Any, z: Any, args: Any) -> Any:
        key_copy, key_chain = jax.random.split(key)
        copy, scale = near(key_copy, z, args)
        state = begin(
            z / scale, num_warmup=settings.warmup, adapt_mass_matrix=False, dense_mass=False, rng_key=key_chain,
            step_size=0.1, model_args=(args, copy, scale, z), target_accept_prob=settings.target_accept,
            max_tree_depth=max(settings.max_tree_depth, 1),
        )  # fmt: skip
        return state._replace(z=z)

    def step(state: Any, args: Any) -> Any:
        key, key_copy, key_held, *keys = jax.random.split(state.rng_key, 3 + moves.repeat)
        z = unravel(state.z)
        found = potential.sites(z, args)
        sites = {name: found[name] for name in z}
        sites = jax.lax.scan(
            lambda sites, key: ({**moves.move(key, sites, *args, **kwargs)}, None), sites, jnp.stack(keys)
        )[0]  # fmt: skip
        z = ravel_pytree(potential.straight(sites, args))[0]
        if not settings.max_tree_depth:
            return state._replace(z=z, i=state.i + 1, rng_key=key)
        copy, scale = near(key_copy, z, args)
        u = jnp.where(free(z), z / scale, jax.random.normal(key_held, z.shape))
        here, slope = jax.value_and_grad(energy)(u, args, copy, scale, z)
        state = state._replace(z=u, potential_energy=here, z_grad=slope, rng_key=key)
        state = nuts(state, (args, copy, scale, z))
        return state._replace(z=jnp.where(free(z), state.z * scale, z))

    return init, step
