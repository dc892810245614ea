"""What a recipe's correlations between labels must satisfy."""

from __future__ import annotations

from hbcal._errors import HbcalError, refuse_unknown, some
from hbcal.recipe_spec import DataSpec, Recipe


def check_correlations(recipe: Recipe) -> None:
    """Refuse correlations of what is not declared, or for a program that takes the labels one by one.

    Args:
        recipe: built from its file, every value of the right type.

    Returns:
        Nothing.

    Errors:
        HbcalError naming the survey, the file and the labels.

    Example:
        >>> from dataclasses import replace
        >>> from hbcal import load_recipe
        >>> recipe = load_recipe("textbook")
        >>> lone = {**recipe.surveys, "s1": replace(recipe.surveys["s1"], correlated=("fe_h",))}
        >>> check_correlations(replace(recipe, program="crosscal_correlated", surveys=lone))
        Traceback (most recent call last):
        hbcal._errors.HbcalError: Survey 's1' lists 'fe_h' in correlated: name at least two labels, each once.
    """
    asked = [name for name, spec in recipe.surveys.items() if spec.correlated]
    files = [entry.file for entry in recipe.data if entry.correlations]
    if recipe.program != "crosscal_correlated" and (asked or files):
        where = (
            f"{some(asked)} list labels in correlated" if asked else f"the columns of {some(files)} hold correlations"
        )
        raise HbcalError(
            f"In the recipe {where}, but {recipe.program} takes the labels one by one: set "
            'program = "crosscal_correlated", or drop them.'
        )
    for name, spec in recipe.surveys.items():
        refuse_unknown(spec.correlated, recipe.labels, "label", f"survey {name!r}")
        if spec.correlated and (len(spec.correlated) < 2 or len(set(spec.correlated)) < len(spec.correlated)):
            raise HbcalError(
                f"Survey {name!r} lists {some(spec.correlated, 9)} in correlated: name at least two labels, each once."
            )
        if spec.correlated and spec.depends_on:
            raise HbcalError(
                f"Survey {name!r} lists labels in correlated and depends on {some(spec.depends_on)}: a dependent "
                "survey is calibrated label by label; drop correlated."
            )
    if recipe.program == "crosscal_correlated" and recipe.clusters:
        raise HbcalError(
            f"The recipe has clusters ({some(sorted(recipe.clusters))}), which crosscal_correlated does not know: use "
            "crosscal or crosscal_robust, or drop them."
        )
    for entry in recipe.data:
        _check_entry(recipe, entry)
    for key, value in recipe.simulate.correlation.items():
        names = key.split(".")
        told = {(c.survey, frozenset(c.labels)) for entry in recipe.data for c in entry.correlations}
        if len(names) != 3 or (names[0], frozenset(names[1:])) not in told:
            raise HbcalError(
                f"The recipe's simulate key 'correlation' has {key!r}: name survey.label.label of correlations that "
                "the recipe reads."
            )
        if not abs(value) < 1:
            raise HbcalError(f"The recipe's simulate correlation of {key!r} is {value}: give a number from -1 to 1.")


def _check_entry(recipe: Recipe, entry: DataSpec) -> None:
    where = f"data entry for {entry.file!r}"
    if (entry.layout == "labels") != bool(entry.survey):
        what = (
            "names no survey: add survey" if entry.layout == "labels" else "names a survey: only layout labels has one"
        )
        raise HbcalError(f"The recipe's {where} is {entry.layout} and {what}.")
    refuse_unknown(filter(None, (entry.survey,)), recipe.surveys, "survey", where)
    if entry.correlations and entry.layout != "wide":
        raise HbcalError(f"The recipe's {where} is {entry.layout} but lists correlations: only a wide one has them.")
    measured = {(m.survey, m.label) for m in entry.measurements}
    pairs = [(c.survey, *sorted(c.labels)) for c in entry.correlations]
    for spec in entry.correlations:
        lost = [label for label in spec.labels if (spec.survey, label) not in measured]
        if lost or spec.labels[0] == spec.labels[1]:
            raise HbcalError(
                f"The recipe's {where} has the correlation of {some(spec.labels)} of survey {spec.survey!r} in column "
                f"{spec.column!r}: name two labels that it measures for that survey."
            )
        if pairs.count((spec.survey, *sorted(spec.labels))) > 1:
            raise HbcalError(f"The recipe's {where} has the correlation of {some(spec.labels)} twice: keep one.")
