"""What does a person read when it is over? One file that needs no other: figures, pictures, tables, the machine."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from loadtest.rig import picture
from loadtest.rig.picture import Band, Curve, Frame
from loadtest.rig.result import Part, Ratio, Report, Result, Spread, late

STYLE = Path(__file__).with_name("page.css")
BARS = 60  # of the histogram

METHOD = """<h2>How it was measured</h2>
<p>The sender keeps to a schedule that is made beforehand and waits for nobody, so a slow answer delays no later
message and hides none: times are counted from when a message was due as well as from when the broker had it.</p>
<p>Append to commit is from the time that the broker gave a record to the time that its batch noted just before its
COMMIT: of every record, read from the database afterwards. The broker counts in milliseconds. Both clocks are this
machine's. Histograms are right to within 0.8 %.</p>
<p>All messages were signed before. Broker, database, workers and sender share this machine; processor time is what
Linux counts for each thread.</p>"""

Cell = str | tuple[str, str]  # a text, or a text and the class of its cell


def page(report: Report) -> str:
    """Write the page."""
    body = [_head(report), *(_course(result, len(report.results) > 1) for result in report.results)]
    body += [_facts(report), METHOD]
    title = f"weighbridge loadtest {report.scenario}"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _head(report: Report) -> str:
    wrong = sum(result.wrong + result.unaccounted for result in report.results)
    messages = sum(result.messages for result in report.results)
    verdict = (
        f'<p class="good">{messages:,} messages, and every one got the verdict that it deserves.</p>'
        if report.right
        else f'<p class="bad">Of {messages:,} messages, {wrong:,} did not get the verdict that they deserve.</p>'
    )
    ratios = "".join(_ratio(ratio) for ratio in report.ratios)
    ratios += "".join(f'<p class="bad">{escape(said)}.</p>\n' for said in map(late, report.results) if said)
    return (
        f'<header>\n<p class="over">weighbridge loadtest · {escape(report.began_at)} · '
        f"commit {escape(report.machine.commit)}</p>\n<h1>{escape(report.scenario.capitalize())}</h1>\n"
        f"<p>{escape(report.about)}</p>\n{verdict}\n{ratios}</header>"
    )


def _ratio(ratio: Ratio) -> str:
    said = str(ratio)
    return f'<p class="{"good" if ratio.holds else "bad"}">{escape(said[:1].upper() + said[1:])}.</p>\n'


def _course(result: Result, several: bool) -> str:  # noqa: FBT001 (whether it needs a name)
    heading = f"<h2>{escape(result.name)}</h2>\n" if several else ""
    return heading + "\n".join((_keys(result), _pictures(result), _tables(result)))


def _keys(result: Result) -> str:
    keys = [
        ("committed", f"{result.rate:,.0f} <small>messages/s</small>"),
        ("largest lag", f"{result.lag_max:,} <small>messages</small>"),
        ("processor", f"{sum(result.cpu_us.values()):,.0f} <small>µs a message</small>"),
        ("memory of the workers", f"{result.rss_mb_max:,.0f} <small>MB at most</small>"),
    ]
    if not result.backlog:
        keys.insert(
            1, ("append to commit, p99", f"{_ms(result.waited.p99)} <small>of {_ms(result.waited.max)}</small>")
        )
        keys[1] = ("append to commit, p99", f"{_ms(result.waited.p99)} <small>max {_ms(result.waited.max)}</small>")
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in keys)
    return f'<dl class="keys">{cells}</dl>'


def _pictures(result: Result) -> str:
    figures = [_throughput(result), _lag(result)]
    if not result.backlog:
        figures += [_latency(result), _histogram(result)]
    return f'<div class="pictures">\n{"".join([*figures, _processor(result), _memory(result)])}</div>'


def _throughput(result: Result) -> str:
    seen = result.seconds_seen[: int(result.seconds)] or result.seconds_seen
    curves = [
        Curve("due", [(one.at_s, one.due) for one in seen]),
        Curve("appended", [(one.at_s, one.appended) for one in seen]),
        Curve("committed", [(one.at_s, one.committed) for one in seen]),
    ]
    curves = curves[2:] if result.backlog else curves
    return _figure(Frame("Messages per second", _seconds), curves, result)


def _lag(result: Result) -> str:
    curve = Curve("appended, not committed", [(one.at_s, one.lag) for one in result.seconds_seen], filled=True)
    return _figure(Frame("Lag at the end of each second, messages", _seconds), [curve], result)


def _latency(result: Result) -> str:
    curves = [
        Curve("p50", [(one.at_s, one.p50_ms) for one in result.seconds_seen]),
        Curve("p99", [(one.at_s, one.p99_ms) for one in result.seconds_seen]),
    ]
    title = f"Append to commit by second of append, {result.watched}"
    return _figure(Frame(title, _seconds, _ms, logarithmic=True), curves, result)


def _figure(frame: Frame, curves: Sequence[Curve], result: Result) -> str:
    return _framed(frame.title, [curve.label for curve in curves], picture.lines(frame, curves, _bands(result)))


def _histogram(result: Result) -> str:
    counts = list(_gathered(result.buckets))
    marks = [
        (f"{name} {_ms(value)}", value)
        for name, value in (("p50", result.waited.p50), ("p99", result.waited.p99), ("p99.9", result.waited.p999))
    ]
    drawn = picture.bars(Frame("Append to commit: how many took how long", _ms), counts, marks)
    return _framed(f"Append to commit: how many took how long, {result.watched}", [], drawn)


def _gathered(buckets: Sequence[tuple[int, int, int]]) -> Iterable[tuple[float, float, float]]:
    """Gather buckets of microseconds into bars of equal width on an axis of powers of ten, in milliseconds."""
    low, high = max(buckets[0][0], 100), max(buckets[-1][1], 200) + 1
    ratio = (high / low) ** (1 / BARS)
    edges = [low * ratio**number for number in range(BARS + 1)]
    counts = [0] * BARS
    place = 0
    for start, _, count in buckets:
        while place < BARS - 1 and start >= edges[place + 1]:
            place += 1
        counts[place] += count
    for number, count in enumerate(counts):
        yield edges[number] / 1_000, edges[number + 1] / 1_000, count


def _processor(result: Result) -> str:
    kinds = list(result.cpu_us)
    curves = [Curve(kind, [(one.at_s, one.cores.get(kind, 0.0)) for one in result.usage]) for kind in kinds]
    drawn = picture.stacked(Frame("Processor in use, cores", _seconds), curves, _bands(result))
    return _framed("Processor in use, cores", kinds, drawn)


def _memory(result: Result) -> str:
    pids = sorted({pid for one in result.usage for pid in one.rss_mb})
    curves = [
        Curve(f"worker {number}", [(one.at_s, one.rss_mb.get(pid)) for one in result.usage])
        for number, pid in enumerate(pids, 1)
    ]
    return _figure(Frame("Memory of each worker process, MB resident", _seconds), curves, result)


def _bands(result: Result) -> list[Band]:
    return [Band(part.name, part.from_s, part.until_s) for part in result.parts]


def _framed(title: str, labels: Sequence[str], drawn: str) -> str:
    named = "".join(
        f'<span><i class="b{number}"></i>{escape(label)}</span>' for number, label in enumerate(labels, 1) if label
    )
    return f"<figure>\n<figcaption><h3>{escape(title)}</h3>{named}</figcaption>\n{drawn}\n</figure>\n"


def _tables(result: Result) -> str:
    tables = [_verdicts(result), _cpu(result)]
    if not result.backlog:
        tables.append(_latencies(result))
    if result.parts:
        tables.append(_parts(result.parts))
    return f'<div class="tables">\n{"".join([*tables, _streams(result)])}</div>{_examples(result)}'


def _verdicts(result: Result) -> str:
    rows: list[list[Cell]] = [
        [one.verdict, (one.reason, "text"), f"{one.deserved:,}", (f"{one.given:,}", _tone(one.deserved == one.given))]
        for one in result.counts
    ]
    return _table("Verdicts, and the truth of what was sent", ["verdict", "reason", "deserved", "given"], rows)


def _tone(right: bool) -> str:  # noqa: FBT001 (it is all that is said)
    return "" if right else "bad"


def _cpu(result: Result) -> str:
    most = max(result.cpu_us.values()) or 1.0
    rows: list[list[Cell]] = [
        [kind, f"{us:.1f}", (f'<span class="bar b{n}" style="width:{100 * us / most:.1f}%"></span>', "wide")]
        for n, (kind, us) in enumerate(result.cpu_us.items(), 1)
    ]
    return _table("Processor for each message, by kind of process", ["", "µs", ""], rows)


def _latencies(result: Result) -> str:
    named = (
        ("append to commit", result.waited),
        ("due to commit", result.whole),
        ("due to sent", result.handed_late),
    )
    rows: list[list[Cell]] = [[name, *_spread(one)] for name, one in named]
    return _table(f"How long it took, {result.watched}", ["", "p50", "p99", "p99.9", "max"], rows)


def _parts(parts: Sequence[Part]) -> str:
    rows: list[list[Cell]] = [
        [one.name, f"{one.offered:,.0f}", f"{one.goodput:,.0f}", _ms(one.waited.p50), _ms(one.waited.p99),
         _ms(one.waited.max)]
        for one in parts
    ]  # fmt: skip
    return _table("Phase by phase", ["phase", "due/s", "goodput/s", "p50", "p99", "max"], rows)


def _streams(result: Result) -> str:
    rows: list[list[Cell]] = [
        [one.name, f"{one.messages:,}", f"{one.signed:,}", f"{one.value_bytes:,.0f}", f"{one.devices:,}",
         (one.verdict, "text")]
        for one in result.streams
    ]  # fmt: skip
    return _table("What was sent", ["stream", "messages", "different", "bytes each", "devices", "deserves"], rows)


def _examples(result: Result) -> str:
    if not result.examples:
        return ""
    return '<p class="bad">' + "<br>".join(escape(one) for one in result.examples) + "</p>"


def _table(title: str, names: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    head = "".join(f"<th{_text_column(name)}>{escape(name)}</th>" for name in names)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>\n" for row in rows)
    return (
        f'<div class="scroll"><table>\n<caption>{escape(title)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n"
    )


def _text_column(name: str) -> str:
    return ' class="text"' if name in ("reason", "deserves") else ""


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return f"<td>{escape(cell)}</td>"
    text, kind = cell
    return f'<td class="{kind}">{text if kind == "wide" else escape(text)}</td>'


def _spread(one: Spread) -> list[str]:
    return [_ms(one.p50), _ms(one.p99), _ms(one.p999), _ms(one.max)]


def _seconds(value: float) -> str:
    return f"{value:,.10g} s"


def _ms(value: float) -> str:
    if value >= 1_000:
        return f"{value / 1_000:,.3g} s"
    return f"{value:.3g} ms"


def _facts(report: Report) -> str:
    machine, first = report.machine, report.results[0]
    facts = {
        "machine": f"{machine.cpu}, {machine.cores} cores, {machine.memory_mb / 1024:,.0f} GB, {machine.kernel}",
        "load before": ", ".join(f"{one:.2f}" for one in machine.load_before) + " (1, 5, 15 minutes)",
        "code": f"commit {machine.commit}, build {machine.build}, Python {machine.python}",
        "engine": ", ".join(first.engines),
        "durability": ", ".join(f"{name} {value}" for name, value in machine.durability.items()),
        "asked for": ", ".join(f"{name} {value}" for name, value in report.wish.items()),
        "enrolled": "; ".join(f"{one.enrolled:,} devices in {one.enrolling_s:.1f} s" for one in report.results),
        "seeds": ", ".join(sorted({str(stream.seed) for one in report.results for stream in one.streams})),
    }
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>\n" for name, value in facts.items())
    return f'<h2>On what</h2>\n<dl class="facts">\n{items}</dl>'
