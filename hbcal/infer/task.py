"""What to sample, and how: the two values a chain is a pure function of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hbcal.infer.moves import Moves
    from hbcal.infer.ring import Chain


@dataclass(frozen=True)
class Settings:
    """NUTS settings. The defaults suit posteriors of up to a few dozen sampled numbers.

    Attributes:
        chains, warmup, draws: how many; draws are per chain.
        thin: steps per draw kept; a divergence in any of them marks the draw.
        seed: of every random number of the run.
        chunk: draws between two writes to disk.
        target_accept, max_tree_depth: of NUTS; with a depth of 0 a task's `moves` are alone.
        jitter: how far from the start the chains begin, in sd of the task's `inverse_mass`.
        workers: processes that share the chains; None for one per core, 0 for threads of this process.
        platform: ``"cpu"`` or ``"gpu"``.
    """

    chains: int = 4
    warmup: int = 500
    draws: int = 1000
    seed: int = 0
    thin: int = 1
    chunk: int = 100
    target_accept: float = 0.8
    max_tree_depth: int = 8
    jitter: float = 2.0
    workers: int | None = None
    platform: str = "cpu"

    def identity(self) -> dict[str, Any]:
        """What decides the draws: everything but the number of workers."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k != "workers"}


@dataclass(frozen=True)
class Task:
    """A program and its data.

    Attributes:
        program: a module-level NumPyro program.
        args, kwargs: its arguments, pytrees of numpy arrays.
        start: constrained starting values of the sampled sites; those left out start at the prior's median.
        complete: module-level ``f(key, sites, *args, **kwargs) -> dict`` that draws, exactly, what the program
            integrated out; or None.
        fold: half-normal sites to sample with a sign (`hbcal.infer.fold`).
        ring: scales and floors to sample in straightened coordinates, or None.
        moves: what happens between transitions of NUTS (`hbcal.infer.moves`), or None.
        starts: with `moves`, where the chains begin, one after the other.
        inverse_mass: first guess of the posterior's covariance, unconstrained, sites in alphabetical order; 0.01
            on the diagonal where None.
    """

    program: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    start: Mapping[str, Any] = field(default_factory=dict)
    complete: Callable[..., dict[str, Any]] | None = None
    inverse_mass: Any = None
    fold: tuple[str, ...] = ()
    ring: Chain | None = None
    moves: Moves | None = None
    starts: tuple[Mapping[str, Any], ...] = ()
