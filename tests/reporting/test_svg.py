import xml.etree.ElementTree as ElementTree

import pytest

from rlkd.reporting.svg import (
    PALETTE,
    RAMP,
    Drawing,
    arm_colour,
    arm_dash,
    element,
    grid,
    ink_on,
    number,
    ramp_colour,
    shorten,
    text,
)


def test_words_and_attributes_are_escaped() -> None:
    assert text(1, 2.5, "<a> & b") == '<text x="1" y="2.5">&lt;a&gt; &amp; b</text>'
    assert element("g", fill='"') == '<g fill="&quot;"/>'


def test_names_are_hyphenated_and_empty_attributes_left_out() -> None:
    assert element("line", stroke_width=2, stroke_dasharray="") == '<line stroke-width="2"/>'


def test_a_coordinate_is_short_and_finite() -> None:
    assert [number(1.0), number(1 / 3), number(-1e-9)] == ["1", "0.33", "0"]
    with pytest.raises(ValueError, match="finite"):
        number(float("nan"))


def test_the_ramp_ends_at_its_ends_and_darkens() -> None:
    assert (ramp_colour(0.0), ramp_colour(1.0)) == (RAMP[0], RAMP[-1])
    assert (ink_on(ramp_colour(0.0)), ink_on(ramp_colour(1.0))) == ("#1f2937", "#ffffff")


def test_arms_stay_apart_beyond_the_palette() -> None:
    looks = {(arm_colour(i), arm_dash(i)) for i in range(2 * len(PALETTE))}
    assert len(looks) == 2 * len(PALETTE)


def test_a_grid_has_the_size_of_its_parts_and_gaps() -> None:
    laid = grid([Drawing(100, 50, ""), Drawing(80, 60, ""), Drawing(90, 40, "")], 2, gap=10)
    # two columns of 100 and one gap; rows of 60 and 40 and one gap
    assert (laid.width, laid.height) == (210, 110)


def test_a_drawing_is_well_formed_and_says_what_it_shows() -> None:
    root = ElementTree.fromstring(Drawing(10, 20, element("g")).svg("a < b"))
    assert root.attrib["viewBox"] == "0 0 10 20"
    assert root[0].text == "a < b"


def test_long_names_are_cut() -> None:
    assert shorten("abcdef", 4) == "abc…"
    assert shorten("abcd", 4) == "abcd"
