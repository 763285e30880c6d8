"""What an installation without the checkout holds, and what it brings along."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import wsss

PROJECT = Path(__file__).parent.parent
PAGE = PROJECT / "docs" / "dependencies.md"

USED = """
import sys
import wsss
from wsss.cli import main
from wsss.report.page import _template

assert wsss.__file__.startswith(sys.argv[1]), wsss.__file__
_template()
words = ["run", "-c", "configs/voc-glnet/pipeline.yaml", "--root", "nowhere"]
assert main(words) == 2
assert main(["classify", "fit", "-c", "configs/voc-glnet/classify.yaml", "--data.root", "nowhere"]) == 2
sys.exit(main(["slots", "photo.jpg", "--backbone", "glnet_nano", "--out", "pictures"]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this checkout, built apart from it."""
    source, made = tmp_path_factory.mktemp("source") / "wsss", tmp_path_factory.mktemp("wheel")
    source.mkdir()
    for name in ("wsss", "configs"):
        shutil.copytree(PROJECT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, source)
    _pip("wheel", "--no-deps", "--no-build-isolation", str(source), "--wheel-dir", str(made))
    return next(made.glob("*.whl"))


def _pip(*words: str) -> None:
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    done = subprocess.run([*pip, *words, "--no-index"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _about(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        name = f"wsss-{wsss.__version__}.dist-info/METADATA"
        return HeaderParser().parsestr(archive.read(name).decode())


def test_a_wheel_holds_every_file(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("wsss/")}
    wanted = {path.relative_to(PROJECT).as_posix() for path in (PROJECT / "wsss").rglob("*.*")}
    wanted |= {
        f"wsss/{path.relative_to(PROJECT).as_posix()}" for path in (PROJECT / "configs").rglob("*.*")
    }
    assert held == {name for name in wanted if "__pycache__" not in name}
    about = _about(wheel)
    assert about["Version"] == wsss.__version__
    assert {"app", "excel", "export"} <= set(about.get_all("Provides-Extra"))


def test_a_wheel_works_without_the_checkout(wheel, tmp_path):
    place = tmp_path / "installed"
    _pip("install", "--no-deps", "--target", str(place), str(wheel))
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.jpg")
    program = {"env": os.environ | {"PYTHONPATH": str(place)}, "cwd": tmp_path, "text": True}
    done = subprocess.run(
        [sys.executable, "-c", USED, str(place)], capture_output=True, check=False, **program
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "pictures" / "index.html").is_file()
    assert done.stderr.count("nowhere") == 2 and "no config file" not in done.stderr
    told = subprocess.check_output([place / "bin" / "wsss", "demo", "--help"], **program)
    assert "synthetic" in told


def test_constraints_name_every_direct_dependency(wheel):
    assert {_name(one) for one in _about(wheel).get_all("Requires-Dist")} <= _tested().keys()


def test_the_page_of_dependencies_has_the_versions_last_tested(wheel):
    """Where it fails: python scripts/dependencies.py, in an environment of constraints.txt."""
    rows = re.findall(r"^\| (\S+) \| (\S+) \| .+ \| (\S+) \|$", PAGE.read_text(), re.MULTILINE)
    direct = {name: version for name, version, by in rows if by.partition("[")[0] == "wsss"}
    wanted = [one for one in _about(wheel).get_all("Requires-Dist") if _for_users(one)]
    assert direct.keys() == {_name(one) for one in wanted}
    assert not [name for name, version in direct.items() if version not in _tested()[name]]


def _for_users(requirement: str) -> bool:
    extra = re.search(r'extra == "(\w+)"', requirement)
    return not extra or extra[1] not in ("docs", "test")


def _tested() -> dict[str, list[str]]:
    """Name -> versions in constraints.txt, of all Pythons."""
    found: dict[str, list[str]] = {}
    for line in (PROJECT / "constraints.txt").read_text().splitlines():
        pinned, _, _ = line.partition(";")
        found.setdefault(_name(line), []).append(pinned.partition("==")[2].strip())
    return found


def _name(requirement: str) -> str:
    """Of a package, as registries compare names."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()
