"""The one container idiom: a frozen dataclass that JAX sees as a pytree.

JAX rebuilds registered dataclasses through ``__init__`` with tracers and placeholders, so these containers never
validate; whoever builds one for a person does.
"""

from __future__ import annotations

import dataclasses
from typing import Any, dataclass_transform

import jax


def static(**kwargs: Any) -> Any:
    """Mark a field as static: part of the tree's structure, hashed, never traced.

    Args:
        **kwargs: passed on to `dataclasses.field`.

    Returns:
        A dataclass field.

    Errors:
        None here; an unhashable value fails when JAX first hashes it.

    Example:
        >>> from hbcal._pytree import pytree, static
        >>> @pytree
        ... class Line:
        ...     slope: float
        ...     name: str = static(default="line")
        >>> jax.tree.leaves(Line(2.0))
        [2.0]
    """
    return dataclasses.field(metadata={"static": True}, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(static,))
def pytree[T](cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass and register it with JAX.

    Args:
        cls: a class with annotated fields; those made with `static` are metadata, the rest are leaves.

    Returns:
        The class, registered.

    Errors:
        TypeError from `dataclasses` for a malformed field list.

    Example:
        >>> from hbcal._pytree import pytree
        >>> @pytree
        ... class Pair:
        ...     a: float
        ...     b: float
        >>> jax.tree.map(lambda x: 2 * x, Pair(1.0, 2.0))
        Pair(a=2.0, b=4.0)
    """
    frozen = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(frozen)  # type: ignore[arg-type]
    meta = [f.name for f in fields if f.metadata.get("static")]
    data = [f.name for f in fields if not f.metadata.get("static")]
    jax.tree_util.register_dataclass(frozen, data_fields=data, meta_fields=meta)
    return frozen
