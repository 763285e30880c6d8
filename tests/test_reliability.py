"""The page on reliability names tests that are there."""

import re

from small_pipeline import PROJECT


def test_each_promise_has_its_test():
    text = (PROJECT / "docs" / "reliability.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?!promise|---)(.+) \| (.+) \|$", text, re.M)
    promises = [(promise, re.findall(r"`(?:python )?([\w/]+\.py)`", where)) for promise, where in rows]
    assert len(promises) > 25
    for promise, tests in promises:
        assert tests, promise
        for name in tests:
            assert any((PROJECT / place / name).is_file() for place in ("tests", ".")), name
