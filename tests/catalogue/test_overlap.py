"""Who can be tied to whom, and which floors the data tell apart."""

import numpy as np
import pytest

from hbcal import HbcalError
from hbcal.catalogue.catalogue import Catalogue
from hbcal.catalogue.overlap import overlap

SURVEYS = ("a", "b", "c", "d", "e")


def catalogue(*seen, label=0, labels=("fe_h",)):
    """One star per word: "ab" is a star that a and b measured, "aab" one that a visited twice."""
    star, survey = np.array([(i, SURVEYS.index(s)) for i, word in enumerate(seen) for s in word]).reshape(-1, 2).T
    n = len(star)
    stars = np.array([f"s{i}" for i in range(len(seen))], dtype=object)
    x = np.zeros((len(seen), len(SURVEYS), 0))
    labels_of = np.full(n, label) if np.isscalar(label) else np.asarray(label)
    value = star + 0.1 * survey
    return Catalogue(stars, SURVEYS, labels, (), star, survey, labels_of, value, np.full(n, 0.1), x, np.zeros(0, bool))


def graph(*seen, anchors=(), known=()):
    return overlap(catalogue(*seen), {"fe_h": tuple(anchors)}, {(s, "fe_h") for s in known})


def test_ties_count_stars_and_say_where_they_are():
    found = graph("ab", "ab", "bc", "a", "c", "abc")
    ties = {(t.survey, t.other): (t.n_star, t.low, t.high) for t in found.ties}
    assert {pair: n for pair, (n, _, _) in ties.items()} == {("a", "b"): 3, ("a", "c"): 1, ("b", "c"): 2}
    assert ties["a", "b"][1:] == pytest.approx((0.05, 5.1))
    assert ties["b", "c"][1:] == pytest.approx((2.15, 5.1))
    assert found.fitted == ("fe_h",)
    assert found.single == ()
    text = found.text({"fe_h": "dex"})
    assert "fe_h [dex]: no anchor: relative scale" in text
    assert "a - b: 3 stars, fe_h 0.05 to 5.1" in text


def test_repeats_are_a_tie_of_a_survey_with_itself():
    found = graph("aab", "ab", "aa")
    assert [(t.survey, t.other, t.n_star) for t in found.ties] == [("a", "a", 2), ("a", "b", 2)]
    assert "a (repeats): 2 stars" in found.text({"fe_h": "dex"})


@pytest.mark.parametrize(
    ("seen", "known", "sums"),
    [
        (("ab", "ab"), "", "ab"),
        (("ab", "bc"), "", "abc"),
        (("ab", "bc", "cd", "da"), "", "abcd"),  # a ring of four has two colours
        (("ab", "bc", "ca"), "", ""),  # a triangle has not
        (("abc",), "", ""),
        (("aab", "ab"), "", ""),  # repeats give a's own noise, and with it b's
        (("ab", "bc"), "a", ""),
    ],
    ids=["pair", "chain", "ring of four", "triangle", "star of three", "repeats", "known noise"],
)
def test_floors_reported_as_sums(seen, known, sums):
    found = graph(*seen, known=known)
    assert found.sums.get("fe_h", ()) == tuple(sums)
    assert ("only sums of the floors of" in found.text({"fe_h": "dex"})) == bool(sums)


def test_each_group_of_surveys_has_its_own_sums():
    """Anchors tie {a, b} and {c, d, e}, but a star of the one says nothing of the noise of the other."""
    assert graph("ab", "cd", "de", anchors="ac").sums == {"fe_h": ("a", "b", "c", "d", "e")}
    assert graph("ab", "cd", "de", anchors="ac", known="a").sums == {"fe_h": ("c", "d", "e")}
    assert graph("ab", "cde", anchors="ac").sums == {"fe_h": ("a", "b")}
    assert graph("aab", "cd", "de", anchors="ac").sums == {"fe_h": ("c", "d", "e")}


def test_surveys_that_cannot_be_tied_are_named():
    with pytest.raises(HbcalError, match=r"2 groups .*\{a, b\} and \{c, d\}"):
        graph("ab", "cd")
    with pytest.raises(HbcalError, match=r"2 groups .*\{a, b\} and \{c, d\}"):
        graph("ab", "cd", anchors="a")
    with pytest.raises(HbcalError, match=r"3 groups"):
        graph("ab", "c", "d")
    assert graph("ab", "cd", anchors="ac").anchored == {"fe_h": ("a", "c")}
    assert graph("ab", "cd", anchors="ace").anchored == {"fe_h": ("a", "c")}  # e has no data


def test_nothing_to_calibrate():
    with pytest.raises(HbcalError, match=r"Only one survey has data \('b'\)"):
        graph("b", "b")
    with pytest.raises(HbcalError, match=r"overlap is empty"):
        graph("a", "b", "aa")
    with pytest.raises(HbcalError, match=r"No label is reported by two surveys \('fe_h', 'teff' by one each\)"):
        overlap(catalogue("ab", label=[0, 1], labels=("fe_h", "teff")), {}, set())
    with pytest.raises(HbcalError, match=r"Every survey that reports 'fe_h' is an anchor"):
        graph("ab", anchors="ab", known="ab")


def test_a_label_of_one_survey_is_no_fit():
    cat = catalogue("ab", "aab", label=[0, 0, 0, 1, 0], labels=("fe_h", "teff", "logg"))
    found = overlap(cat, {}, set())
    assert (found.fitted, found.single) == (("fe_h",), ("teff",))
    assert "teff: reported by one voting survey only, not fitted" in found.text({"fe_h": "dex", "teff": "K"})
