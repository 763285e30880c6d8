"""Charts as SVG that suits any page."""

import re

from wsss.report import charts


def test_values_stand_beside_their_bars():
    text = charts.chart("x", "bars", 2, lambda f: charts.bars(f.subplots(), ["a"], [7.0], "%"))
    path = re.search(r'd="([^"]*)"[^>]*--first', text).group(1)
    end = max(float(x) for x in re.findall(r"[ML] ([\d.]+) ", path))
    start = re.search(r'text-anchor: start[^>]* x="([\d.]+)"[^>]*>7\.0<', text).group(1)
    assert end + 2 < float(start) < end + 5
    assert "font-size" in text and "DejaVu" not in text  # the page's own font


def test_what_it_shows_is_escaped():
    drawn = charts.chart("x", 'of "<b>"', 2, lambda f: charts.bars(f.subplots(), ["<i>"], [7.0], "%"))
    assert (
        'aria-label="of &#34;&lt;b&gt;&#34;"' in drawn and "&lt;i&gt;" in drawn and "<i>" not in drawn
    )
