"""Charts as inline SVG that takes its colours from the page, so that it suits light and dark.

They are drawn narrow, for a phone; text stays text. Series differ by hatching or marker, too.
"""

import io
import re
import warnings
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

WIDTH = 4.6
"""Inches; at 72 points an inch the text is as large on a phone as the page's small print."""

# stand-ins while matplotlib draws, for the colours that the page's style sheet defines
INK, LINE, FIRST, SECOND, THIRD, FOURTH = (f"#0{n}0{n}0{n}" for n in "123456")
_PAGE = {INK: "currentColor", LINE: "var(--line)", FIRST: "var(--first)", SECOND: "var(--second)"}
_PAGE |= {THIRD: "var(--third)", FOURTH: "var(--fourth)"}

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "wsss",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "hatch.linewidth": 0.6,
    "grid.color": LINE,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.parse_math": False,  # a class may be called $x$
}


def chart(name: str, about: str, height: float, draw: Callable[[Figure], None]) -> Markup:
    """Draw a figure and return its `<svg>` element, which a template takes as it is.

    Args:
        name: makes the ids in it unlike those of the page's other charts.
        about: what it shows, for readers who hear the page.
        height: inches.
        draw: fills the figure.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure((WIDTH, height), layout="constrained", facecolor="none")
        draw(figure)
        for axes in figure.axes:
            axes.set_facecolor("none")
        stream = io.StringIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # the page's fonts draw the text
            figure.savefig(stream, format="svg", transparent=True)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'\sversion="1.1"|\s(width|height)="[\d.]+pt"', "", text)
    text = re.sub(r'\sid="', f' id="{name}-', text)
    text = text.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)  # of older matplotlibs
    text = re.sub(r"font-family: [^;\"]*;?", "", text)
    for stand_in, colour in _PAGE.items():
        text = text.replace(stand_in, colour)
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{escape(about)}"', 1))


def class_bars(axes: Axes, names: Sequence[str], parts: dict[str, np.ndarray]) -> None:
    """Stacked bars, one a class from the top down; `parts` are in percent."""
    looks = [(FIRST, ""), (SECOND, "////"), (THIRD, "...."), (FOURTH, "xxxx")]
    left = np.zeros(len(names))
    for (label, values), (colour, hatch) in zip(parts.items(), looks, strict=False):
        axes.barh(
            range(len(names)), values, left=left, color=colour, hatch=hatch, edgecolor=INK, lw=0.4,
            height=0.8, label=label,
        )  # fmt: skip
        left = left + values
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("%")
    axes.figure.legend(loc="outside upper left", ncols=4, columnspacing=0.8, handlelength=1.4)


def confusion_matrix(axes: Axes, matrix: np.ndarray, names: Sequence[str]) -> None:
    """A square (L, L) in percent of each row; cells are darker where they are large."""
    count = len(names)
    for row in range(count):
        for column in range(count):
            part = matrix[row, column] / 100
            if not part > 0:
                continue
            colour = FIRST if row == column else SECOND
            axes.add_patch(
                Rectangle((column, row), 1, 1, facecolor=colour, alpha=max(0.04, part**0.7), lw=0)
            )
            if part >= (0.005 if count <= 8 else 0.1):
                axes.text(
                    column + 0.5, row + 0.5, f"{100 * part:.0f}", ha="center", va="center",
                    fontsize=9 if count <= 8 else max(4.0, 110 / count),
                )  # fmt: skip
    size = 9 if count <= 12 else max(4.5, 150 / count)
    axes.set_xticks(np.arange(count) + 0.5, names, rotation=90, fontsize=size)
    axes.set_yticks(np.arange(count) + 0.5, names, fontsize=size)
    axes.set_xlim(0, count)
    axes.set_ylim(count, 0)
    axes.set_aspect("equal")
    axes.grid(False)
    axes.tick_params(length=0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("ground truth")


def curve(
    axes: Axes, points: Sequence[tuple[float, float]], marks: dict[str, tuple[float, float]]
) -> None:
    """A line through (x, y) points, with named marks on it."""
    x, y = np.array(points).T
    axes.plot(x, y, color=FIRST, lw=2)
    for (name, (where, value)), (colour, marker) in zip(
        marks.items(), [(SECOND, "o"), (FOURTH, "s")], strict=False
    ):
        axes.axvline(where, color=colour, ls="--" if marker == "o" else ":", lw=1.2)
        axes.plot(
            where, value, marker, color=colour, ms=8, mec=INK, clip_on=False,
            label=f"{name}: {value:.1f} %",
        )  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(0)
    axes.figure.legend(loc="outside upper left", ncols=2)


def lines(axes: Axes, series: dict[str, tuple[Sequence[float], Sequence[float]]], ylabel: str) -> None:
    """Some (x, y) series in one frame, x being whole numbers."""
    looks = [(FIRST, "-", ""), (SECOND, "--", "o"), (THIRD, ":", "s"), (FOURTH, "-.", "^")]
    for (name, (x, y)), (colour, style, marker) in zip(series.items(), looks, strict=False):
        marker = marker or ("o" if len(x) <= 30 else "")  # one point makes no line
        axes.plot(x, y, style, color=colour, marker=marker, ms=4, lw=1.5, label=name)
    axes.set_ylabel(ylabel)
    axes.set_xlim(0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if ylabel == "%":
        axes.set_ylim(0, 100)
    axes.legend(loc="best")


def bars(axes: Axes, names: Sequence[str], values: Sequence[float], unit: str) -> None:
    """Bars from the top down with their values."""
    drawn = axes.barh(range(len(names)), values, color=FIRST, edgecolor=INK, lw=0.4)
    axes.bar_label(drawn, fmt="%.1f", padding=3, fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, max([*values, 1e-9]) * 1.15)
    axes.set_xlabel(unit)
    axes.grid(axis="y", visible=False)
