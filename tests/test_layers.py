"""Modules import only from the layers before them, and light ones stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "wsss"
LAYERS = [
    {"errors", "voc"},
    {"schema", "sheets"},
    {"machine", "program"},
    {"distributed"},
    {"progress"},
    {"files", "resources"},
    {"locks"},
    {"settings"},
    {"parts"},
    {"geometry"},
    {"data"},
    {"localize"},
    {"models"},
    {"evaluation"},
    {"config_files", "origin"},
    {"run_folder"},
    {"tasks"},
    {"stages"},
    {"lightning_cli"},
    {"api"},
    {"recipe_for"},
    {"pictures"},
    {"report"},
    {"pipeline"},
    {"exchange"},
    {"explore", "predict", "projects", "slot_gallery"},
    {"app"},
    {"project_page"},
    {"commands"},
    {"cli"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def _imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = [f"wsss.{alias.name}" for alias in node.names] if module == "wsss" else [module]
        yield from (name for name in names if name.split(".")[0] in ("wsss", "lightning"))


def test_imports_go_one_way():
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if here == "__init__":
            continue
        for name in _imports(path):
            if name.startswith("lightning"):
                wrong.append(f"{path.name}: {name} (use pytorch_lightning)")
            elif len(name.split(".")) > 1 and RANK[name.split(".")[1]] > RANK[here]:
                wrong.append(f"{path.name}: {name}")
    assert not wrong


COMMANDS = [path for path in sorted((PACKAGE / "commands").glob("*.py")) if path.stem != "__init__"]


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.stem)
def test_a_command_is_arguments_and_one_call(path):
    """It is short, and knows no other command."""
    text = path.read_text()
    names = {node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    others = {name for name in _imports(path) if name.startswith("wsss.commands.")}
    assert {"add_arguments", "main"} <= names
    assert not others and len(text.splitlines()) < 80


def test_no_module_imports_pydensecrf():
    """It needs a compiler; tests and benchmarks compare with it."""
    assert not [p.name for p in PACKAGE.rglob("*.py") if "import pydensecrf" in p.read_text()]


def test_help_and_crf_jobs_need_no_torch():
    code = (
        "import sys, wsss.cli, wsss.stages.jobs; wsss.cli.main(['--help']); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
