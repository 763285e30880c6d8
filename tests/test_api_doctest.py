"""Each example in the docstrings of the Python API runs, and each public name has one."""

import doctest
import re
import shutil

import pytest
from small_pipeline import PROJECT

import wsss

ON_A_RUN = ("Run", "run_pipeline")
OTHERS = [name for name in wsss.__all__ if name not in (*ON_A_RUN, "__version__")]


def _run_examples(thing: object, name: str) -> None:
    finder = doctest.DocTestFinder(recurse=isinstance(thing, type))
    examples = finder.find(thing, name, module=False, globs={"wsss": wsss})
    assert any(test.examples for test in examples), f"{name} has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in examples:
        told: list[str] = []
        assert runner.run(test, out=told.append).failed == 0, "".join(told)


@pytest.mark.parametrize("name", OTHERS)
def test_examples(name, place):
    _run_examples(getattr(wsss, name), name)


@pytest.mark.parametrize("name", ON_A_RUN)
def test_examples_on_a_run(name, place, small_run):
    shutil.rmtree(place / "runs" / "demo")
    (place / "runs" / "demo").symlink_to(small_run)
    (place / "configs").mkdir()
    (place / "configs" / "demo").symlink_to(small_run.parent / "configs")
    _run_examples(getattr(wsss, name), name)


def test_examples_of_the_package_and_of_the_pages(place):
    _run_examples(wsss, "wsss")
    (place / "photographs").mkdir()
    shutil.copy(place / "photo.jpg", place / "photographs")
    for page in ("README.md", "docs/how-to/python.md"):
        for code in re.findall(r"^```python\n(.*?)^```$", (PROJECT / page).read_text(), re.M | re.S):
            exec(code, {})
    for mask in ("mask.png", "photographs/photo.png"):
        assert wsss.read_mask(mask).shape == (64, 64)
