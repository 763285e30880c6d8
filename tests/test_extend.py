"""docs/how-to/extend.md from start to finish: its files are written, its commands and code are run."""

import re
import shlex

import numpy as np
import pytest
from small_pipeline import PROJECT

import wsss
from wsss.cli import main
from wsss.data import tags
from wsss.data.masks import read_mask
from wsss.data.tags.own import Names

BLOCK = re.compile(r"^```(\w+)\n(?:# (\S+\.(?:py|yaml))\n)?(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def blocks(place, monkeypatch) -> dict[str, list[tuple[str, str, str]]]:
    """Title of each section -> its blocks: language, name of the file or nothing, text."""
    monkeypatch.syspath_prepend(str(place))
    text = (PROJECT / "docs" / "how-to" / "extend.md").read_text(encoding="utf-8")
    sections = re.split(r"^(?:# (?=Extend)|## )", text, flags=re.MULTILINE)[1:]
    return {part.partition("\n")[0]: BLOCK.findall(part) for part in sections}


def _run(blocks: list[tuple[str, str, str]], *more: str) -> dict[str, object]:
    """Write the files of a section, run its commands and code; returns what the code has named."""
    found: dict[str, object] = {}
    for kind, file, text in blocks:
        if file:
            assert "/" not in file
            with open(file, "w", encoding="utf-8") as written:
                written.write(text)
        elif kind == "python":
            exec(text, found)
        else:
            assert kind == "sh"
            for line in text.splitlines():
                program, *words = shlex.split(line)
                assert program == "wsss" and main([*words, "--data.num_workers", "0", *more]) == 0, line
    return found


def test_each_part_is_short(blocks):
    parts = ["Another seed", "Another refinement", "Another layout", "Another form of tags"]
    assert list(blocks)[1:] == parts
    for title in list(blocks)[1:]:
        lines = blocks[title][0][2].splitlines()
        code = [line for line in lines if line.strip() and not line.startswith(("import", "from"))]
        assert len(code) <= 12, title


def test_a_seed_and_a_refinement(blocks, place):
    found = _run(blocks["Another seed"])
    records = wsss.read_catalog("voc", "data", "train").records
    assert {path.stem for path in (place / "own" / "masks").glob("*.png")} == {r.id for r in records}
    classifier, image = found["classifier"], wsss.read_image("photo.jpg")
    tags = ["brick", "star"]
    soft = wsss.PseudoMaskSettings(seed="seeds.Power")
    made = read_mask(place / "own" / "masks" / "train_00000.png")
    assert (made != classifier.pseudo_mask(image, tags, soft, size=64)).mean() < 0.01
    assert (found["mask"] > 0).sum() < (made > 0).sum()  # a higher power makes objects smaller
    _run(blocks["Another refinement"])
    refined = read_mask(place / "refined" / "masks" / "train_00000.png")
    assert np.isin(refined, [0, 2, 4, 255]).all()
    agreed = refined != 255
    np.testing.assert_array_equal(refined[agreed], made[agreed])


def test_a_layout(blocks, place):
    for split, count in (("train", 12), ("val", 4)):
        for name, tag in zip(("ball", "brick"), ("ball", "brick"), strict=True):
            (place / "albums" / split / name).mkdir(parents=True)
            for number in range(count):
                photo = place / "data" / "JPEGImages" / f"{split}_{number % 8:05d}.jpg"
                (place / "albums" / split / tag / f"{number}.jpg").symlink_to(photo)
    found = _run(blocks["Another layout"], "--trainer.enable_progress_bar", "false")
    assert found["catalog"].classes == ("ball", "brick") and len(found["catalog"].records) == 24


def test_a_form_of_tags(blocks, tmp_path, monkeypatch):
    (block,) = blocks["Another form of tags"]
    found: dict[str, object] = {}
    exec(block[2], found)
    before = tags.FORMS.index(next(form for form in tags.FORMS if isinstance(form, Names)))
    forms = (*tags.FORMS[:before], found["Colons"](), *tags.FORMS[before:])
    monkeypatch.setattr(tags, "FORMS", forms)
    (tmp_path / "labels.txt").write_text("a.jpg: cat, polar bear\nb.jpg: dog\n")
    path = tags.tag_source(tmp_path)
    table = tags.read_tag_table(path, tmp_path)
    assert table.form == found["Colons"].about
    assert [(row.image, row.tags) for row in table.rows] == [
        ("a.jpg", ("cat", "polar bear")),
        ("b.jpg", ("dog",)),
    ]
