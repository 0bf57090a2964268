# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx>=0.28", "matplotlib>=3.10"]
# ///
"""Render the pictures of the README from a running release: panels of its dashboards, and one trace.

    kubectl -n monitoring port-forward svc/prometheus 9090 &
    kubectl -n monitoring port-forward svc/jaeger 16686 &
    .venv/bin/uv run --script scripts/pictures.py --trace 5dc3c8b6bd1b9d07fe9a2bd2af60bd26

The project does not depend on matplotlib: uv makes a throwaway environment of the lines at the top. The trace is that
of a request that asked for an export; its id is in the `traceresponse` header of the answer.
"""

import argparse
import json
import math
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

Object = dict[str, Any]

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "pictures"

ROWS = (("service", "Requests"), ("jobs", "Now"), ("jobs", "Backlog"), ("jobs", "Runs"))
"""Dashboards and their rows: of each the first line of panels is shown."""
RATE_INTERVAL = "1m"
STEP = 15
"""Seconds between two points: Grafana's least, and how often the release is scraped."""

WIDTH, DPI = 9.0, 160  # inches; a README is about 900 pixels wide
COLUMNS, UNIT = 24, 0.2  # Grafana's grid, and how many inches high one step of it is
PAGE, PANEL, LINE, TEXT, FAINT = "#111217", "#1a1d22", "#2f333a", "#dcdde0", "#9da2aa"
COLOURS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#37c8c8", "#c0a37e")
NAMED = {"green": COLOURS[0], "orange": COLOURS[3], "red": COLOURS[4]}
SCALES = {
    "s": ((1e-6, " µs"), (1e-3, " ms"), (1, " s")),
    "percentunit": ((0.01, "%"),),
    "reqps": ((1, " req/s"),),
    "ops": ((1, " ops/s"),),
    "none": ((1, ""),),
}


@dataclass
class Series:
    name: str
    values: list[float]


@dataclass
class Span:
    service: str
    operation: str
    depth: int
    start: float
    """Seconds after the trace began."""
    duration: float


class Sheet:
    """A picture on which everything has its place in inches from the top left."""

    def __init__(self, height: float) -> None:
        self.figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor=PAGE)
        self.canvas = FigureCanvasAgg(self.figure)
        self.height = height
        self.ground = self.figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height, 0))
        self.ground.axis("off")

    def axes(self, x: float, y: float, width: float, height: float) -> Any:
        place = (x / WIDTH, 1 - (y + height) / self.height, width / WIDTH, height / self.height)
        axes = self.figure.add_axes(place, facecolor="none", axisbelow=True)
        axes.spines[:].set_visible(False)
        axes.grid(color=LINE, linewidth=0.6)
        axes.tick_params(length=0, labelsize=7, labelcolor=FAINT)
        return axes

    def box(self, x: float, y: float, width: float, height: float, colour: str, *, edge: str = "none") -> None:
        self.ground.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor=edge, linewidth=0.6))

    def text(self, x: float, y: float, text: str, *, size: float = 8, colour: str = TEXT, **style: Any) -> float:
        """Write, and tell how wide that was."""
        written = self.ground.text(x, y, text, size=size, color=colour, **{"va": "center", **style})
        return float(written.get_window_extent(self.canvas.get_renderer()).width) / DPI

    def save(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        self.canvas.draw()
        image = Image.frombytes("RGBA", self.canvas.get_width_height(), bytes(self.canvas.buffer_rgba()))
        # So few colours need no more than a palette: a third of the size.
        palette = image.convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        palette.save(path, optimize=True)
        print(f"{path}: {path.stat().st_size // 1000} kB")


def quantity(value: float, unit: str, *, like: float | None = None) -> str:
    """A value with its unit; in the scale that another value has, for the marks of an axis."""
    scales = SCALES[unit]
    size = abs(value if like is None else like) or 1
    factor, name = next((scale for scale in reversed(scales) if size >= scale[0] * 0.9995), scales[0])
    return f"{value / factor:.3g}{name}"


def at(seconds: float, form: str = "%H:%M") -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime(form)


# The dashboard.


def first_line(dashboard: str, row: str) -> tuple[str, list[Object]]:
    """What to write above a row, and its first line of panels."""
    content = json.loads((ROOT / "charts" / "plinth" / "dashboards" / f"{dashboard}.json").read_text())
    panels = content["panels"]
    begin = 1 + next(n for n, panel in enumerate(panels) if (panel["type"], panel["title"]) == ("row", row))
    top = panels[begin]["gridPos"]["y"]
    return f"{content['title']}: {row}", [panel for panel in panels[begin:] if panel["gridPos"]["y"] == top]


def answers(prometheus: httpx.Client, panel: Object, namespace: str, times: range) -> Iterator[Series]:
    """What Grafana would get for a panel, with all pods chosen."""
    for target in panel["targets"]:
        query = target["expr"].replace("$__rate_interval", RATE_INTERVAL)
        query = query.replace("$namespace", namespace).replace("$release", "plinth").replace("$pod", ".+")
        if target.get("instant"):
            path, when = "/api/v1/query", {"time": times[-1]}
        else:
            path, when = "/api/v1/query_range", {"start": times[0], "end": times[-1], "step": STEP}
        response = prometheus.post(path, data={"query": query, **when})
        for result in response.raise_for_status().json()["data"]["result"]:
            name = target["legendFormat"]
            for label in re.findall(r"{{(\w+)}}", name):
                name = name.replace(f"{{{{{label}}}}}", result["metric"].get(label, ""))
            points = {round(when): float(value) for when, value in result.get("values") or [result["value"]]}
            # Where Prometheus has no point there is a gap.
            yield Series(name, [points.get(when, math.nan) for when in times])


def draw_graph(sheet: Sheet, panel: Object, series: list[Series], times: range, place: tuple[float, ...]) -> None:
    x, y, width, height = place
    axes = sheet.axes(x + 0.66, y + 0.34, width - 0.84, height - 0.94)
    defaults = panel["fieldConfig"]["defaults"]
    custom = defaults.get("custom", {})
    stacked = custom.get("stacking", {}).get("mode") == "normal"
    base = [0.0] * len(times)
    for number, one in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        line = one.values
        if stacked:
            line = [low + (0 if math.isnan(value) else value) for low, value in zip(base, line, strict=True)]
            axes.fill_between(times, base, line, color=colour, alpha=custom["fillOpacity"] / 100, linewidth=0)
            base = line
        axes.plot(times, line, color=colour, linewidth=1.1, marker=".", markersize=2, zorder=3 - number / 100)
    highest = max((value for one in series for value in one.values if not math.isnan(value)), default=math.nan)
    axes.set_xlim(times[0], times[-1])
    axes.set_xticks([when for when in times[2:-1] if when % 120 == 0])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda when, _: at(when)))
    if math.isnan(highest):
        axes.set_yticks([])
        sheet.text(x + width / 2, y + height / 2 - 0.1, "No data", colour=FAINT, ha="center")
        return
    top = (max(base) if stacked else highest) * 1.08 or 1
    axes.set_ylim(0, top)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: quantity(value, defaults["unit"], like=top)))
    draw_legend(sheet, series, x + 0.14, y + height - 0.3, width - 0.24)


def draw_legend(sheet: Sheet, series: list[Series], x: float, y: float, width: float) -> None:
    """The names, on two lines at most."""
    right, line = 0.0, 0
    for number, one in enumerate(series):
        needs = 0.16 + 0.056 * len(one.name)
        if right and right + needs > width - (0.4 if line and number + 1 < len(series) else 0):
            if line:
                sheet.text(x + right, y + 0.15, f"+ {len(series) - number}", size=7, colour=FAINT)
                return
            right, line = 0.0, 1
        sheet.box(x + right, y + line * 0.15 - 0.012, 0.1, 0.024, COLOURS[number % len(COLOURS)])
        right += 0.28 + sheet.text(x + right + 0.14, y + line * 0.15, one.name, size=7, colour=FAINT)


def draw_stat(sheet: Sheet, panel: Object, series: list[Series], place: tuple[float, ...]) -> None:
    x, y, width, height = place
    defaults = panel["fieldConfig"]["defaults"]
    if not series:
        sheet.text(x + width / 2, y + height / 2 + 0.1, "No data", colour=FAINT, ha="center")
        return
    value = series[0].values[-1]
    colour = TEXT
    for step in defaults.get("thresholds", {}).get("steps", []):
        if step["value"] is None or value >= step["value"]:
            colour = NAMED[step["color"]]
    text = quantity(value, defaults["unit"])
    sheet.text(x + width / 2, y + height / 2 + 0.1, text, size=19, colour=colour, ha="center", weight="bold")


def draw_dashboard(prometheus: httpx.Client, namespace: str, times: range) -> Sheet:
    rows = [first_line(*row) for row in ROWS]
    heights = [0.32 + UNIT * panels[0]["gridPos"]["h"] for _, panels in rows]
    sheet = Sheet(sum(heights) + 0.4)
    begin, end = at(times[0], "%d %B %Y, %H:%M"), at(times[-1])
    sheet.text(0.08, 0.2, f"namespace {namespace}", size=8, weight="bold")
    sheet.text(WIDTH - 0.08, 0.2, f"{begin} to {end} UTC", size=8, colour=FAINT, ha="right")
    y = 0.36
    for (title, panels), height in zip(rows, heights, strict=True):
        sheet.text(0.08, y + 0.17, title, size=8.5, weight="bold")
        for panel in panels:
            grid = panel["gridPos"]
            step = WIDTH / COLUMNS
            place = (grid["x"] * step + 0.04, y + 0.3, grid["w"] * step - 0.08, grid["h"] * UNIT - 0.04)
            sheet.box(*place, PANEL, edge=LINE)
            sheet.text(place[0] + 0.12, place[1] + 0.16, panel["title"], weight="bold")
            series = list(answers(prometheus, panel, namespace, times))
            if panel["type"] == "stat":
                draw_stat(sheet, panel, series, place)
            else:
                draw_graph(sheet, panel, series, times, place)
        y += height
    return sheet


# The trace.


def spans_of(trace: Object) -> list[Span]:
    """The spans of a trace, each below its parent, in the order in which they began."""
    spans = sorted(trace["spans"], key=lambda span: span["startTime"])
    known = {span["spanID"] for span in spans}
    children: dict[str, list[Object]] = {}
    for span in spans:
        # The parent of the first is the caller's own span, which Jaeger does not have.
        parents = [link["spanID"] for link in span["references"] if link["refType"] == "CHILD_OF"]
        children.setdefault(next((parent for parent in parents if parent in known), ""), []).append(span)

    def below(parent: str, depth: int) -> Iterator[Span]:
        for span in children.get(parent, []):
            service = trace["processes"][span["processID"]]["serviceName"]
            start = (span["startTime"] - spans[0]["startTime"]) / 1e6
            yield Span(service, span["operationName"], depth, start, span["duration"] / 1e6)
            yield from below(span["spanID"], depth + 1)

    return list(below("", 0))


def draw_trace(trace: Object) -> Sheet:
    spans = spans_of(trace)
    services = list(dict.fromkeys(span.service for span in spans))
    total = max(span.start + span.duration for span in spans)
    left, top, row = 3.3, 0.72, 0.2
    sheet = Sheet(top + row * len(spans) + 0.12)
    sheet.box(0.04, 0.42, WIDTH - 0.08, sheet.height - 0.46, PANEL, edge=LINE)
    sheet.text(0.08, 0.21, spans[0].operation, size=9, weight="bold")
    began = at(min(span["startTime"] for span in trace["spans"]) / 1e6, "%d %B %Y, %H:%M:%S UTC")
    told = f"{trace['traceID']}, {began}: {len(spans)} spans, {quantity(total, 's')}"
    sheet.text(WIDTH - 0.08, 0.21, told, colour=FAINT, ha="right")

    axes = sheet.axes(left, top, WIDTH - left - 0.3, row * len(spans))
    axes.set(xlim=(0, total), ylim=(len(spans), 0), yticks=[])
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: quantity(value, "s", like=total)))
    axes.xaxis.tick_top()
    for number, span in enumerate(spans):
        colour = COLOURS[(2, 3, 0, 5)[services.index(span.service) % 4]]
        y, x = top + row * (number + 0.5), 0.14 + 0.16 * span.depth
        sheet.box(x, y - 0.07, 0.035, 0.14, colour)
        width = sheet.text(x + 0.08, y, span.service, size=7.5, colour=colour, weight="bold")
        sheet.text(x + 0.16 + width, y, span.operation, size=7.5)
        axes.barh(number + 0.5, span.duration, 0.6, span.start, color=colour)
        ends, after = span.start + span.duration, span.start + span.duration < 0.9 * total
        axes.annotate(
            quantity(span.duration, "s"),
            (ends if after else span.start, number + 0.5),
            xytext=(3 if after else -3, 0),
            textcoords="offset points",
            ha="left" if after else "right",
            va="center",
            size=7,
            color=TEXT,
        )
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trace", required=True, metavar="ID")
    parser.add_argument("--prometheus", default="http://localhost:9090", metavar="URL")
    parser.add_argument("--jaeger", default="http://localhost:16686", metavar="URL")
    parser.add_argument("--namespace", default="plinth")
    parser.add_argument("--minutes", type=int, default=10, help="how much of the past the dashboard shows")
    parser.add_argument("--until", type=float, default=time.time(), metavar="SECONDS", help="since 1970; else now")
    arguments = parser.parse_args()
    end = int(arguments.until) // STEP * STEP
    try:
        with httpx.Client(base_url=arguments.prometheus, timeout=30) as prometheus:
            times = range(end - 60 * arguments.minutes, end + 1, STEP)
            draw_dashboard(prometheus, arguments.namespace, times).save(PICTURES / "dashboard.png")
        response = httpx.get(f"{arguments.jaeger}/api/traces/{arguments.trace}", timeout=30).raise_for_status()
        draw_trace(response.json()["data"][0]).save(PICTURES / "trace.png")
    except httpx.HTTPError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
