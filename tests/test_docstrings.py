"""Every public function says what it takes, gives, what can go wrong, and shows it; pytest runs the examples."""

import importlib
import inspect
import pkgutil

import pytest

import hbcal

SECTIONS = ("Args:", "Returns:", "Errors:", "Example:")
MODULES = sorted(m.name for m in pkgutil.walk_packages(hbcal.__path__, "hbcal."))


def faults(function) -> list[str]:
    """What a public function's docstring lacks."""
    lines = [line.strip() for line in (inspect.getdoc(function) or "").splitlines()]
    lacks = [section for section in SECTIONS if section not in lines]
    if "Example:" in lines and not any(">>>" in line for line in lines[lines.index("Example:") :]):
        lacks.append("an example that runs")
    return lacks


def public(module_name):
    """Public functions defined in a module, and public methods of its public classes, jitted ones included."""
    module = importlib.import_module(module_name)
    functions, methods = {}, {}
    for name, thing in vars(module).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != module_name:
            continue
        if inspect.isclass(thing):
            for key, member in vars(thing).items():
                member = getattr(member, "fget", None) or getattr(member, "func", None) or member
                if not key.startswith("_") and inspect.isroutine(inspect.unwrap(member)):
                    methods[f"{name}.{key}"] = member
        elif callable(thing):
            functions[name] = thing
    return functions, methods


@pytest.mark.parametrize("module", MODULES)
def test_public_docstrings_are_complete(module):
    functions, methods = public(module)
    if module == "hbcal.cli_populations":
        functions = {}
    if module == "hbcal.cli":  # commands: their docstring is the help text, written for another reader
        functions = {"main": functions["main"]} if "Args:" in (functions["main"].__doc__ or "") else {}
    lacking = {name: lacks for name, function in functions.items() if (lacks := faults(function))}
    assert not lacking
    assert not [name for name, method in methods.items() if not (method.__doc__ or "").strip()]


def test_there_is_something_to_check():
    found = [name for module in MODULES for name in public(module)[0]]
    assert {"calibrate", "simulate", "open_run", "crosscal", "gram", "observe"} <= set(found)
    assert "Block.variance" in public("hbcal.distributions.flat_stars")[1]


def test_a_planted_bad_docstring_is_caught():
    def bare(x):
        """Double it."""

    def told(x):
        """Double it.

        Args:
            x: a number, dex.

        Returns:
            2 x, dex.

        Errors:
            None.

        Example:
            See the README.
        """

    def shown(x):
        """Double it.

        Args:
            x: a number, dex.

        Returns:
            2 x, dex.

        Errors:
            None.

        Example:
            >>> 2 * 1.0
            2.0
        """

    assert faults(bare) == list(SECTIONS)
    assert faults(told) == ["an example that runs"]
    assert faults(shown) == []
