"""What an import of wsss leaves as it is."""

import ast
import subprocess
import sys
from pathlib import Path

import wsss

PACKAGE = Path(wsss.__file__).parent

CODE = """
import importlib, logging, os, sys, warnings

def state():
    import cv2, torch
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    return {
        "warning filters": list(warnings.filters),
        "the format of warnings": warnings.formatwarning,
        "log levels": levels | {"": logging.getLogger().level},
        "log handlers": {name: list(logging.getLogger(name).handlers) for name in LOGGERS},
        "OpenCV's threads": cv2.getNumThreads(),
        "torch's threads": torch.get_num_threads(),
        "torch's gradients": torch.is_grad_enabled(),
        "the environment": dict(os.environ),
        "the path": list(sys.path),
    }

*modules, others = sys.argv[1:]
os.environ.pop("NO_ALBUMENTATIONS_UPDATE", None)
sys.modules["albumentations.check_version"] = type(sys)("albumentations.check_version")
asked = []
sys.modules["albumentations.check_version"].check_for_updates = lambda: asked.append(1)
import wsss.data.albumentations  # before the state is taken: what it imports may have one of its own
environment = "NO_ALBUMENTATIONS_UPDATE" in os.environ
for name in others.split():
    try:
        importlib.import_module(name)
    except ImportError:
        pass  # an extra that is not installed
LOGGERS = list(logging.root.manager.loggerDict)
before = state()
for name in modules:
    importlib.import_module(name)
after = state()
assert not asked, "albumentations asked for a newer version"
assert not environment, "NO_ALBUMENTATIONS_UPDATE stays set"
changed = [name for name in before if before[name] != after[name]]
assert not changed, f"importing wsss changes {', '.join(changed)}"
"""


def _name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def _others(path: Path) -> set[str]:
    """What a module imports of other packages, and when: at its own import or later."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module)
    return {name for name in found if name.split(".")[0] != "wsss"}


def test_an_import_changes_nothing_global():
    paths = sorted(PACKAGE.rglob("*.py"))
    # what other packages do at their import is theirs: they come first
    others = sorted(set().union(*map(_others, paths)) - {"__future__", "albumentations.pytorch"})
    words = [sys.executable, "-c", CODE, *map(_name, paths), " ".join(others)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
