"""Pictures: round numbers on the axes, everything within them, gaps where nothing is known."""

import re
from xml.etree import ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from loadtest.rig import picture
from loadtest.rig.picture import HEIGHT, WIDTH, Band, Curve, Frame, Scale

FRAME = Frame("a title", lambda value: f"{value:g} s")
heights = st.floats(0, 1e9)


def parsed(drawn: str) -> ET.Element:
    return ET.fromstring(drawn)  # noqa: S314 (we drew it)


def places(drawn: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", drawn)]


frames = st.sampled_from([FRAME, Frame("a title", str, logarithmic=True)])


@given(st.lists(st.none() | heights, min_size=1, max_size=30), frames)
def test_curves_stay_within_their_picture(found: list[float | None], frame: Frame) -> None:
    curves = [Curve("one", list(enumerate(found)), filled=True)]
    drawn = picture.lines(frame, curves, [Band("all", 0, len(found))])
    parsed(drawn)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places(drawn))


@given(st.lists(st.tuples(heights, heights), min_size=1, max_size=30))
def test_layers_lie_one_upon_another(found: list[tuple[float, float]]) -> None:
    curves = [Curve(name, [(x, pair[which]) for x, pair in enumerate(found)]) for which, name in enumerate("ab")]
    drawn = picture.stacked(FRAME, curves)
    parsed(drawn)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places(drawn))


def test_what_is_not_known_is_not_drawn() -> None:
    curve = Curve("one", [(0, 1.0), (1, 2.0), (2, None), (3, 2.0)])
    assert picture.lines(FRAME, [curve]).count('class="s1"') == 2


def test_numbers_on_an_axis_are_round() -> None:
    assert Scale(0, 937, 0, 1).ticks() == [0, 500]
    assert Scale(0, 1_000, 0, 1).ticks() == [0, 500, 1_000]
    assert Scale(0, 12, 0, 1).ticks() == [0, 5, 10]
    assert Scale(80, 1_200, 0, 1, logarithmic=True).ticks() == [100, 200, 500, 1_000]
    assert Scale(1, 100_000, 0, 1, logarithmic=True).ticks() == [1, 10, 100, 1_000, 10_000, 100_000]


def test_marks_and_bars_stand_where_their_values_are() -> None:
    drawn = picture.bars(FRAME, [(1.0, 10.0, 3), (10.0, 100.0, 0), (100.0, 1_000.0, 6)], [("p99", 500.0)])
    assert drawn.count("<rect") == 2
    assert "p99" in drawn
    parsed(drawn)


def test_a_title_is_text_and_nothing_else() -> None:
    drawn = picture.lines(Frame("<b>&", str), [Curve("one", [(0, 1.0)])])
    assert parsed(drawn).get("aria-label") == "<b>&"
