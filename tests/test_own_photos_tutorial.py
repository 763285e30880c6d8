"""The pages on own photographs, from start to finish: commands are run, output is what is shown."""

import io
import re
import shlex
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from wsss.cli import main
from wsss.data.synthetic import SYNTHETIC_CLASSES, draw_scene
from wsss.errors import UserNotice
from wsss.settings import BACKBONE

PAGES = [
    Path(__file__).parent.parent / "docs" / "how-to" / name
    for name in ("own-photos.md", "correct-masks.md")
]
BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _photographs(folder: Path) -> None:
    """What the tutorial starts from: 60 tagged pictures in two sub-folders, two odd ones, new ones."""
    lines = ["image,tags"]
    for number in range(64):
        image, mask = draw_scene(np.random.default_rng(number), 64)
        name = f"day {number // 30 + 1}/img {number:03d}.jpg"
        if number >= 60:
            name = f"../new-photos/img {number:03d}.jpg"
        else:
            tags = "|".join(SYNTHETIC_CLASSES[label - 1] for label in np.unique(mask) if label)
            lines.append(f"{name},{tags}")
        path = folder / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    (folder / "photos" / "day 1" / "broken.jpg").write_bytes(b"")
    lines.append("day 1/broken.jpg,ball")
    Image.fromarray(image).save(folder / "photos" / "day 2" / "forgotten.jpg")
    (folder / "tags.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _text() -> str:
    return "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


def _said(command: str, weights: Path) -> tuple[int, str]:
    words = shlex.split(command, comments=True)
    assert words[0] == "wsss", f"a command that the test cannot run: {command}"
    if words[1] == "init":  # small, and without a download
        words += ["--weights", str(weights), *(["--quick"] if "--quick" not in words else [])]
    out = io.StringIO()
    with warnings.catch_warnings(record=True) as told, redirect_stdout(out), redirect_stderr(out):
        code = main(words[1:])
    notices = [f"note: {one.message}" for one in told if isinstance(one.message, UserNotice)]
    return code, "\n".join([*notices, out.getvalue()])


@pytest.fixture
def weights(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / f"{BACKBONE}.safetensors"
    save_file(timm.create_model(BACKBONE).state_dict(), path)
    return path


def test_the_tutorial_runs(tmp_path, monkeypatch, weights):
    _photographs(tmp_path)
    monkeypatch.chdir(tmp_path)
    said, commands = "", 0
    for kind, text in BLOCK.findall(_text()):
        if kind == "sh":
            for line in text.replace("\\\n", " ").splitlines():
                code, said = _said(line, weights)
                commands += 1
                # check tells by its code that it warned; nothing else has something to mend
                assert code == (1 if line.startswith("wsss check") else 0), f"{line}\n{said}"
        else:
            have = iter(said.splitlines())
            for wanted in text.splitlines():
                if wanted.strip() != "...":
                    assert any(line.rstrip() == wanted for line in have), f"{wanted!r} not in\n{said}"
    assert commands >= 6


def test_files_that_the_tutorial_names_are_made(tmp_path):
    """Every option and file it names in running text exists; see also the run above."""
    for option in set(re.findall(r"`(--[a-z-]+)", _text())):
        sources = Path(__file__).parent.parent.glob("wsss/**/*.py")
        assert any(f'"{option}"' in path.read_text(encoding="utf-8") for path in sources), option
