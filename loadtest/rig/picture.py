"""How is a curve drawn? As SVG, by hand: axes with round numbers, few lines, colours that the page chooses.

Nothing here knows what is drawn. Classes name the roles (`s1`, `s2`, ...); the page gives them colours for light and
dark, so a picture is right in both.
"""

import math
from collections.abc import Callable, Sequence
from html import escape

import msgspec

WIDTH, HEIGHT = 640, 216
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 18, 26
TICKS = 4  # about so many
LETTER = 6  # about as wide
HEADROOM = 1.3  # above bars, for what is said of the marks
FINE_BELOW = 1_000  # an axis of powers of ten that spans less has numbers between them, too


class Curve(msgspec.Struct, frozen=True):
    """Points from left to right; None where nothing is known."""

    label: str
    points: Sequence[tuple[float, float | None]]
    filled: bool = False


class Band(msgspec.Struct, frozen=True):
    """A stretch of the horizontal axis that has a name."""

    label: str
    start: float
    end: float


class Scale(msgspec.Struct, frozen=True):
    """From values to places: even, or by powers of ten."""

    low: float
    high: float
    near: float  # where the low end is
    far: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Say where a value is."""
        low, high, at = (self._even(one) for one in (self.low, self.high, value))
        share = (min(max(at, low), high) - low) / (high - low)
        return self.near + share * (self.far - self.near)

    def ticks(self) -> list[float]:
        """Choose round numbers."""
        if not self.logarithmic:
            step = _round(self.high - self.low)
            return [step * n for n in range(math.ceil(self.low / step), math.floor(self.high / step + 1e-9) + 1)]
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        parts = (1, 2, 5) if self.high / self.low < FINE_BELOW else (1,)
        found = [part * 10.0**decade for decade in decades for part in parts]
        return [value for value in found if self.low * 0.999 <= value <= self.high * 1.001]

    def _even(self, value: float) -> float:
        return math.log10(max(value, self.low)) if self.logarithmic else value


class Frame(msgspec.Struct, frozen=True):
    """What a picture is called and what its axes mean."""

    title: str
    across: Callable[[float], str]  # how a value of the horizontal axis is written
    up: Callable[[float], str] = lambda value: f"{value:,.10g}"
    logarithmic: bool = False


def lines(frame: Frame, curves: Sequence[Curve], bands: Sequence[Band] = ()) -> str:
    """Draw curves over one axis."""
    across = _across(curves)
    up = _up(frame, curves)
    body = [*_bands(across, bands), *_grid(frame, across, up)]
    body += [_curve(number, curve, across, up) for number, curve in enumerate(curves, 1)]
    return _svg(frame.title, body)


def stacked(frame: Frame, curves: Sequence[Curve], bands: Sequence[Band] = ()) -> str:
    """Draw curves one upon another."""
    floor = [0.0] * max(len(curve.points) for curve in curves)
    layers = []
    for curve in curves:
        roof = [low + (y or 0.0) for low, (_, y) in zip(floor, curve.points, strict=True)]
        layers.append((floor, roof))
        floor = roof
    top = Curve("", [(x, high) for (x, _), high in zip(curves[0].points, floor, strict=True)])
    across, up = _across(curves), _up(frame, [top])
    xs = [across.place(x) for x, _ in curves[0].points]
    body = [*_bands(across, bands), *_grid(frame, across, up)]
    for number, (low, high) in enumerate(layers, 1):
        outline = [*zip(xs, map(up.place, high), strict=True), *reversed([*zip(xs, map(up.place, low), strict=True)])]
        body.append(f'<path class="f{number} layer" d="{_path(outline)}Z"/>')
    return _svg(frame.title, body)


def bars(frame: Frame, counts: Sequence[tuple[float, float, float]], marks: Sequence[tuple[str, float]]) -> str:
    """Draw how many lie between two values, over an axis of powers of ten; marks stand where one should look."""
    low, high = counts[0][0], counts[-1][1]
    across = Scale(low, high, LEFT, WIDTH - RIGHT, logarithmic=True)
    up = _up(frame, [Curve("", [(start, count * HEADROOM) for start, _, count in counts])])
    body = _grid(frame, across, up)
    for start, end, count in counts:
        if count:
            left, right, top = across.place(start), across.place(end), up.place(count)
            wide, tall = max(right - left - 0.6, 0.6), HEIGHT - BOTTOM - top
            body.append(f'<rect class="f1" x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{tall:.1f}"/>')
    for number, (label, value) in enumerate(marks):
        x = across.place(value)
        anchor = "end" if x > (LEFT + WIDTH) / 2 else "start"
        body.append(f'<path class="mark" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        shift = -4 if anchor == "end" else 4
        body.append(_text(x + shift, TOP + 10 + 14 * number, label, f"label {anchor}"))
    return _svg(frame.title, body)


def _across(curves: Sequence[Curve]) -> Scale:
    xs = [x for curve in curves for x, _ in curve.points]
    low, high = min(xs), max(xs)
    return Scale(low, high if high > low else low + 1, LEFT, WIDTH - RIGHT)


def _up(frame: Frame, curves: Sequence[Curve]) -> Scale:
    ys = [y for curve in curves for _, y in curve.points if y is not None] or [1.0]
    if frame.logarithmic:
        low = 10 ** math.floor(math.log10(max(min(ys), 0.1)))
        high = 10 ** math.ceil(math.log10(max(*ys, 1.0)) + 1e-9)
        return Scale(low, high if high > low else low * 10, HEIGHT - BOTTOM, TOP, logarithmic=True)
    top = max(*ys, 1e-9)
    step = _round(top)
    return Scale(0, step * math.ceil(top / step - 1e-9), HEIGHT - BOTTOM, TOP)


def _round(width: float) -> float:
    """Give a step of 1, 2 or 5 times a power of ten that goes into a width about so many times."""
    rough = width / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    return power * next(times for times in (1, 2, 5, 10) if times * power >= rough * 0.999)


def _grid(frame: Frame, across: Scale, up: Scale) -> list[str]:
    found = []
    for value in up.ticks():
        y = up.place(value)
        found.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        found.append(_text(LEFT - 8, y + 4, frame.up(value), "end"))
    for value in across.ticks():
        x = across.place(value)
        found.append(f'<path class="tick" d="M{x:.1f} {HEIGHT - BOTTOM}v4"/>')
        found.append(_text(x, HEIGHT - BOTTOM + 17, frame.across(value), "middle"))
    found.append(f'<path class="axis" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    return found


def _bands(across: Scale, bands: Sequence[Band]) -> list[str]:
    found = []
    for number, band in enumerate(bands):
        left, right = across.place(band.start), across.place(band.end)
        if number % 2:
            tall = HEIGHT - BOTTOM - TOP
            found.append(f'<rect class="band" x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" height="{tall}"/>')
        narrow = right - left < LETTER * len(band.label) + 8
        found.append(_text(right - 2, TOP - 6, band.label, "end faint") if narrow
                     else _text(left + 4, TOP - 6, band.label, "start faint"))  # fmt: skip
    return found


def _curve(number: int, curve: Curve, across: Scale, up: Scale) -> str:
    """Draw a curve in as many pieces as it has; one point alone is a dot."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in curve.points:
        if y is None:
            pieces.append([])
        else:
            pieces[-1].append((across.place(x), up.place(y)))
    drawn = []
    for piece in filter(None, pieces):
        if curve.filled:
            floor = HEIGHT - BOTTOM
            area = _path([(piece[0][0], floor), *piece, (piece[-1][0], floor)])
            drawn.append(f'<path class="f{number} area" d="{area}Z"/>')
        if len(piece) == 1:
            drawn.append(f'<circle class="f{number}" cx="{piece[0][0]:.1f}" cy="{piece[0][1]:.1f}" r="1.6"/>')
        drawn.append(f'<path class="s{number}" d="{_path(piece)}"/>')
    return "".join(drawn)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _text(x: float, y: float, text: str, classes: str) -> str:
    return f'<text class="{classes}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _svg(title: str, body: Sequence[str]) -> str:
    inner = "\n".join(body)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">\n{inner}\n</svg>'
