"""The one error a user of hbcal should ever see."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HbcalError(ValueError):
    """Something about the input is wrong: the message is one sentence saying what, where, how many, what to do.

    The command line prints it and exits with status 2; nothing has been written by then.
    """


def closest(name: str, allowed: Iterable[str]) -> str:
    """Name the allowed word closest to `name`, as the tail of an error message.

    Args:
        name: the word that was not understood.
        allowed: the words that would have been; may be empty.

    Returns:
        ``" (did you mean 'x'?)"`` when one is near, else the list of allowed words.

    Errors:
        None: any string is answered.

    Example:
        >>> closest("offst", ["offset", "trend"])
        " (did you mean 'offset'?)"
    """
    words = sorted({str(word) for word in allowed})
    lower = {word.lower(): word for word in words}
    near = difflib.get_close_matches(str(name).lower(), lower, n=1)
    if near:
        return f" (did you mean {lower[near[0]]!r}?)"
    return f" (allowed: {', '.join(words)})" if words else ""


def some(items: Iterable[object], most: int = 3) -> str:
    """Show the first few of many offenders: ``'a', 'b', 'c' and 4 more``.

    Args:
        items: anything printable, any number.
        most: how many are spelled out.

    Returns:
        A phrase for an error message.

    Errors:
        None.

    Example:
        >>> some(["a", "b", "c", "d"], most=2)
        "'a', 'b' and 2 more"
    """
    shown = [str(item) for item in items]
    head = ", ".join(repr(item) for item in shown[:most])
    return head if len(shown) <= most else f"{head} and {len(shown) - most} more"


def refuse_unknown(names: Iterable[str], declared: Iterable[str], what: str, where: str) -> None:
    """Refuse names of a recipe that nothing declares.

    Args:
        names: as the recipe writes them.
        declared: the names there are.
        what: what they name, for the message.
        where: in which part of the recipe.

    Returns:
        Nothing.

    Errors:
        HbcalError for the first unknown name, with the closest that is declared.

    Example:
        >>> refuse_unknown(["teff", "log"], ["teff", "logg"], "label", "trend")
        Traceback (most recent call last):
        hbcal._errors.HbcalError: The recipe's trend names an unknown label 'log' (did you mean 'logg'?).
    """
    declared = list(declared)
    for name in names:
        if name not in declared:
            raise HbcalError(f"The recipe's {where} names an unknown {what} {name!r}{closest(name, declared)}.")
