"""The report's plots as inline SVG, coloured by the page's style sheet (light and dark alike).

Every text that comes from data is escaped; hovering a mark shows its exact values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from limbeck.report.axes import Axis, fitted
from limbeck.report.format import significant

WIDTH, HEIGHT = 440, 310
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 16, 46
LABEL_HEIGHT = 15
FLATTENED = 2.0
"""A mark that may leave does so when it lies this many times the others' range away from them."""


@dataclass(frozen=True)
class Point:
    """One arm in a plane: its centre, its error bars, its seeds, and what hovering says."""

    colour: str
    label: str
    x: float
    y: float
    x_low: float | None = None
    x_high: float | None = None
    y_low: float | None = None
    y_high: float | None = None
    seeds_y: tuple[float, ...] = ()
    hover: str = ""
    off_scale: str = ""
    may_leave: bool = False
    """Whether it may be shown at the border where it would flatten the rest."""


@dataclass(frozen=True)
class Line:
    """One curve; gaps are None."""

    colour: str
    label: str
    x: Sequence[float | None]
    y: Sequence[float | None]
    style: str = "total"


@dataclass(frozen=True)
class Bar:
    """One paired difference with its interval and the seeds' own differences."""

    colour: str
    label: str
    text: str
    mean: float
    low: float
    high: float
    seeds: tuple[float, ...] = ()
    hover: str = ""
    may_leave: bool = False


def scatter(
    points: Sequence[Point], *, x_label: str, y_label: str, name: str, about: str
) -> Markup:
    """Arms as marks with error bars; the horizontal axis is logarithmic where values spread far."""
    x = fitted(
        [v for p in points for v in (p.x, p.x_low, p.x_high)],
        LEFT + 8,
        WIDTH - RIGHT - 8,
        margin=0.12,
    )
    y = fitted(_kept_in([(p.may_leave, _ys(p)) for p in points]), HEIGHT - BOTTOM, TOP, log=False)
    x_label += " (log scale)" if x.log else ""
    marks = [_point(p, x, y) for p in points]
    labels = _labels(points, x, y)
    body = Markup("").join([_frame(x, y, x_label, y_label), *marks, *labels])
    return svg(body, name, about)


def curves(
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    name: str,
    about: str,
    breaks: Sequence[float] = (),
) -> Markup:
    """Curves over steps; the vertical axis is logarithmic where values spread far.

    At `breaks` what is drawn changes its meaning, which a vertical line marks.
    """
    x = fitted([v for line in lines for v in line.x], LEFT, WIDTH - RIGHT, log=False, margin=0.0)
    spread = [v for line in lines for v in line.y]
    log = min((v for v in spread if v is not None), default=0) > 1e-6
    y = fitted(spread, HEIGHT - BOTTOM, TOP, log=None if log else False, margin=0.05)
    y_label += " (log scale)" if y.log else ""
    rule = Markup(
        '<line class="zero" stroke-dasharray="2 3" x1="{0:g}" x2="{0:g}" y1="{1}" y2="{2}"/>'
    )
    marks = [rule.format(x.at(step), TOP, HEIGHT - BOTTOM) for step in breaks]
    drawn = [_curve(line, x, y) for line in lines]
    return svg(Markup("").join([_frame(x, y, x_label, y_label), *marks, *drawn]), name, about)


def histogram(
    edges: Sequence[float], counts: Sequence[int], *, x_label: str, name: str, about: str
) -> Markup:
    """Counts in bins, as bars that start at zero."""
    x = Axis(edges[0], edges[-1], LEFT, WIDTH - RIGHT)
    y = Axis(0, max(*counts, 1) * 1.05, HEIGHT - BOTTOM, TOP)
    drawn = [
        Markup(
            '<rect class="bin" x="{:g}" y="{:g}" width="{:g}" height="{:g}">'
            "<title>{}</title></rect>"
        ).format(
            x.at(low) + 0.5,
            y.at(number),
            max(x.at(high) - x.at(low) - 1, 1),
            y.at(0) - y.at(number),
            f"{significant(low)} to {significant(high)}: {number}",
        )
        for low, high, number in zip(edges, edges[1:], counts, strict=False)
    ]
    frame = _frame(x, y, x_label, "count")
    return svg(Markup("").join([frame, *drawn]), name, about)


def differences(bars: Sequence[Bar], *, name: str, about: str) -> Markup:
    """Paired differences, one above the other, around a line at zero."""
    row, top = 50, 8
    height = top + row * len(bars) + 26
    values = _kept_in([(b.may_leave, [b.low, b.high, b.mean, *b.seeds, 0.0]) for b in bars])
    x = fitted(values, 12, WIDTH - 12, log=False, include=(0.0,))
    zero, bottom = x.at(0), height - 26
    parts = [
        Markup('<line class="zero" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(zero, top, bottom)
    ]
    for tick, text in x.labels():
        at = x.at(tick)
        parts.append(
            Markup(
                '<line class="grid" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>'
                '<text class="tick" x="{0}" y="{3}" text-anchor="middle">{4}</text>'
            ).format(at, top, bottom, height - 10, text)
        )
    for index, bar in enumerate(bars):
        parts.append(_difference(bar, x, top + row * index))
    return svg(Markup("").join(parts), name, about, height)


def _ys(point: Point) -> list[float]:
    return [v for v in (point.y, point.y_low, point.y_high, *point.seeds_y) if v is not None]


def _kept_in(marks: Sequence[tuple[bool, Sequence[float]]]) -> list[float]:
    """The values an axis must show: all but those that may leave and would flatten the rest."""
    fixed = [v for may_leave, values in marks if not may_leave for v in values]
    others = [v for may_leave, values in marks if may_leave for v in values]
    if not fixed:
        return others
    room = FLATTENED * (max(fixed) - min(fixed) or abs(max(fixed)) or 1.0)
    return fixed + [v for v in others if min(fixed) - room <= v <= max(fixed) + room]


def _difference(bar: Bar, x: Axis, top: float) -> Markup:
    y = top + 33
    seeds = Markup("").join(
        Markup('<circle class="seed" cx="{}" cy="{}" r="2.6"/>').format(x.at(v), y + 9)
        for v in bar.seeds
    )
    drawn = Markup(
        '<line class="bar" x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>'
        '<line class="bar" x1="{low}" x2="{low}" y1="{y0}" y2="{y1}"/>'
        '<line class="bar" x1="{high}" x2="{high}" y1="{y0}" y2="{y1}"/>'
        '<circle class="dot" cx="{mean}" cy="{y}" r="5"/>{seeds}'
    ).format(
        low=x.at(bar.low),
        high=x.at(bar.high),
        mean=x.at(bar.mean),
        y=y,
        y0=y - 4,
        y1=y + 4,
        seeds=seeds,
    )
    if not x.low <= bar.mean <= x.high:
        drawn = _arrow(x.at(bar.mean), y, 1 if bar.mean > x.high else -1, 0)
    return Markup(
        '<g class="mark {colour}"><title>{hover}</title>'
        '<rect class="hit" x="0" y="{top}" width="{width}" height="48"/>'
        '<text class="name" x="12" y="{text_y}">{label}</text>'
        '<text class="value" x="{right}" y="{text_y}" text-anchor="end">{text}</text>{drawn}</g>'
    ).format(
        colour=bar.colour,
        hover=bar.hover,
        top=top,
        width=WIDTH,
        text_y=top + 17,
        right=WIDTH - 12,
        label=bar.label,
        text=bar.text,
        drawn=drawn,
    )


def _arrow(x: float, y: float, right: int, down: int) -> Markup:
    """A triangle at the border, for a mark that lies beyond it."""
    tip = (x + 4 * right, y + 4 * down)
    back = (x - 8 * right, y - 8 * down)
    side = (6 * down, 6 * right)
    corners = [
        tip,
        (back[0] + side[0], back[1] + side[1]),
        (back[0] - side[0], back[1] - side[1]),
    ]
    points = " ".join(f"{a:g},{b:g}" for a, b in corners)
    return Markup('<polygon class="dot" points="{}"/>').format(points)


def _frame(x: Axis, y: Axis, x_label: str, y_label: str) -> Markup:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts: list[Markup] = []
    for tick, text in y.labels():
        parts.append(
            Markup(
                '<line class="grid" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>'
                '<text class="tick" x="{3}" y="{4}" text-anchor="end">{5}</text>'
            ).format(LEFT, right, y.at(tick), LEFT - 7, y.at(tick) + 4, text)
        )
    for tick, text in x.labels():
        parts.append(
            Markup(
                '<line class="tickmark" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>'
                '<text class="tick" x="{0}" y="{3}" text-anchor="middle">{4}</text>'
            ).format(x.at(tick), bottom, bottom + 4, bottom + 17, text)
        )
    parts.append(
        Markup(
            '<line class="axis" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>'
            '<text class="label" x="{3}" y="{4}" text-anchor="middle">{5}</text>'
            '<text class="label" transform="translate(13 {6}) rotate(-90)" text-anchor="middle">'
            "{7}</text>"
        ).format(
            LEFT,
            right,
            bottom,
            (LEFT + right) / 2,
            HEIGHT - 8,
            x_label,
            (TOP + bottom) / 2,
            y_label,
        )
    )
    return Markup("").join(parts)


def _point(point: Point, x: Axis, y: Axis) -> Markup:
    px, py = x.at(point.x), y.at(point.y)
    if not y.low <= point.y <= y.high:
        return Markup('<g class="mark {}"><title>{}</title>{}</g>').format(
            point.colour, point.hover, _arrow(px, py, 0, 1 if point.y < y.low else -1)
        )
    bars: list[Markup] = []
    if point.x_low is not None and point.x_high is not None:
        bars.append(_bar(x.at(point.x_low), py, x.at(point.x_high), py))
    if point.y_low is not None and point.y_high is not None:
        bars.append(_bar(px, y.at(point.y_low), px, y.at(point.y_high)))
    seeds = [
        Markup('<circle class="seed" cx="{}" cy="{}" r="2.6"/>').format(px, y.at(value))
        for value in point.seeds_y
    ]
    return Markup('<g class="mark {}"><title>{}</title>{}{}{}</g>').format(
        point.colour,
        point.hover,
        Markup("").join(bars),
        Markup("").join(seeds),
        Markup('<circle class="dot" cx="{}" cy="{}" r="6"/>').format(px, py),
    )


def _bar(x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="bar" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(x1, y1, x2, y2)


def _labels(points: Sequence[Point], x: Axis, y: Axis) -> list[Markup]:
    """Names beside the marks, pushed apart where they would cover one another."""
    placed: list[tuple[float, float, float, float]] = []
    texts: list[Markup] = []
    for point in sorted(points, key=lambda p: y.at(p.y)):
        label = point.label if y.low <= point.y <= y.high else point.off_scale
        px, width = x.at(point.x), 7.4 * len(label)
        left = px + 12 + width > WIDTH - RIGHT
        x1 = px - 12 - width if left else px + 12
        at = y.at(point.y) - 8
        while any(
            abs(at - other_y) < LABEL_HEIGHT and x1 < b and a < x1 + width
            for a, b, other_y, _ in placed
        ):
            at += 2
        at = min(at, HEIGHT - BOTTOM - 4)
        placed.append((x1, x1 + width, at, 0.0))
        texts.append(
            Markup('<text class="name {}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
                point.colour,
                px - 12 if left else px + 12,
                at,
                "end" if left else "start",
                label,
            )
        )
    return texts


def _curve(line: Line, x: Axis, y: Axis) -> Markup:
    pieces: list[list[str]] = [[]]
    for here, value in zip(line.x, line.y, strict=True):
        if here is None or value is None:
            pieces.append([])
        else:
            pieces[-1].append(f"{x.at(here):g},{y.at(value):g}")
    drawn = Markup("").join(
        Markup('<polyline class="curve" points="{}"/>').format(" ".join(piece))
        for piece in pieces
        if piece
    )
    return Markup('<g class="{} {}"><title>{}</title>{}</g>').format(
        line.colour, line.style, line.label, drawn
    )


def svg(body: Markup, name: str, about: str, height: float = HEIGHT) -> Markup:
    """A figure with its name and what it shows in words, for those who cannot see it."""
    return Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title><desc>{}</desc>'
        "{}</svg>"
    ).format(WIDTH, height, f"{name}. {about}", name, about, body)


def colours(arms: Iterable[str]) -> Mapping[str, str]:
    """A CSS class per arm: the four usual ones keep theirs, others share a palette."""
    usual = ("teacher", "student", "baseline", "control")
    others = [arm for arm in dict.fromkeys(arms) if arm not in usual]
    return {
        **{arm: f"arm-{arm}" for arm in usual},
        **{arm: f"arm-extra{i % 4}" for i, arm in enumerate(others)},
    }
