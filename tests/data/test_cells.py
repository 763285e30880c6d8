"""What stands in the cells of a table."""

import pytest

from wsss.data.cells import listed, mark


@pytest.mark.parametrize("name", ["(new) car", "car [red]", "[red] car", "[red]|[blue]", "l'eau"])
def test_brackets_in_a_name_are_no_list(name):
    assert listed(name) is None


def test_what_is_no_mark():
    assert [mark(text) for text in ("2", "-1", "0.5", "cat", "1;0", "inf")] == [None] * 6
