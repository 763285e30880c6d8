"""The program, its scripts and its environment."""

import ast
import subprocess
import sys

import numpy as np
import yaml
from small_pipeline import PROJECT

import wsss
from wsss.cli import one_sentence
from wsss.data.masks import write_mask
from wsss.errors import UserError


def test_error_from_a_loader_process_is_one_sentence():
    wrapped = "Caught UserError\nTraceback ...\nwsss.errors.UserError: image x.jpg cannot be read"
    assert one_sentence(UserError(wrapped)) == "image x.jpg cannot be read"


def test_scripts(tmp_path):
    write_mask(tmp_path / "a" / "x.png", np.array([[0, 1], [1, 255]]))
    words = [str(tmp_path / "a"), str(tmp_path / "a")]
    done = subprocess.run(
        [sys.executable, str(PROJECT / "scripts" / "evaluate.py"), *words],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "mIoU 100.00" in done.stdout
    for name in ("train_cls", "make_pseudo_masks", "train_seg", "evaluate"):
        text = (PROJECT / "scripts" / f"{name}.py").read_text()
        assert len(ast.parse(text).body) == 4  # docstring, two imports, one call


def test_environment_names_this_package_and_its_pythons():
    environment = yaml.safe_load((PROJECT / "environment.yml").read_text())
    pyproject = (PROJECT / "pyproject.toml").read_text()
    python = next(d for d in environment["dependencies"] if str(d).startswith("python "))
    assert f'requires-python = "{python.removeprefix("python ")}"' in pyproject
    assert environment["name"] == "wsss" and {"pip": ["-e ."]} in environment["dependencies"]
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text())
    assert citation["version"] == wsss.__version__
