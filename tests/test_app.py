"""The page of `wsss app`: what it computes, what it says, and how it works in a real browser."""

import io
import json
import os
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from wsss.cli import main
from wsss.data.masks import read_mask
from wsss.errors import UserError
from wsss.explore import Run, areas, mask_picture, uncertainty
from wsss.localize.pseudo_masks import pseudo_mask
from wsss.settings import CRFSettings

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in BROWSERS if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")
def run(small_run) -> Run:
    return Run(small_run)


@pytest.fixture
def page(run, tmp_path):
    pytest.importorskip("gradio", reason="the page needs Gradio: pip install 'gradio>=6.31,<7'")
    from wsss.app import Page

    return Page(run, tmp_path)


def _bad_files(folder):
    text, huge = folder / "holiday <b>.jpg", folder / "huge.png"
    text.write_text("this is no photograph")
    Image.new("1", (9000, 6000)).save(huge)
    return text, huge


def test_masks_are_those_of_the_run(run, small_run):
    entry = run.listed("masks")[5]
    found = run.analyse_file(entry.record.image)
    assert found.image.shape == (64, 64, 3) and found.scores.shape[0] == 4
    made = run.pseudo_mask(found, list(entry.record.tags), run.background, crf=True)
    stored = read_mask(small_run / "pseudo_masks" / "masks" / f"{entry.record.id}.png")
    assert (made != stored).mean() < 0.01  # the stored scores are float16
    other = run.pseudo_mask(found, list(entry.record.tags), 0.95, crf=False)
    assert (other > 0).sum() < (made > 0).sum()
    assert found.predicted.shape == (64, 64)


def test_pseudo_masks_are_those_of_the_run_where_slots_learned(small_run, tmp_path):
    stage, run = small_run / "pseudo_masks", Run(small_run)
    wrong = np.zeros(3)  # pixels unlike the run's: as shown, by what all taught, without slots
    records = run.data.catalog("train").records[:9]
    for record in records:
        found, tags = run.analyse_file(record.image), list(record.tags)
        theirs = read_mask(stage / "masks" / f"{record.id}.png")
        ways = [run.pseudo_mask(found, tags, run.background, crf=True)]
        shutil.copy(record.image, tmp_path / "elsewhere.jpg")
        new = run.analyse_file(tmp_path / "elsewhere.jpg")  # nobody's photograph
        ways.append(run.pseudo_mask(new, tags, run.background, crf=True))
        labels = [tag + 1 for tag in tags]
        ways.append(pseudo_mask(found.image, found.scores[tags], labels, run.background, run.crf))
        wrong += [(way != theirs).mean() / len(records) for way in ways]
    assert wrong[0] < 1e-3 < wrong[1] < 0.2 and wrong[0] < 0.1 * wrong[2]


def test_a_run_is_shown_as_its_masks_were_made(small_run, tmp_path):
    """Defaults of the code, or the config, may have changed since."""
    shutil.copytree(small_run, tmp_path / "run")
    note = tmp_path / "run" / "pseudo_masks" / "masks" / "settings.json"
    before = json.loads(note.read_text())
    del before["learn_slots"], before["border_prior"]  # of before there were such settings
    note.write_text(json.dumps(before | {"background": 0.25}))
    assert Run(small_run).taught
    run = Run(tmp_path / "run")
    assert run.background == 0.25 and not run.taught and not run.seed_settings["border_prior"]


def test_the_segmenter_is_used_as_its_test_uses_it(small_run, tmp_path, monkeypatch):
    shutil.copytree(small_run, tmp_path / "run")
    path = tmp_path / "run" / "segment" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content["inference"] |= {"scales": [0.5, 1.5], "flip": True, "crf": {"side": 40}}
    torch.save(content, path)
    run, how = Run(tmp_path / "run"), {}

    def predict_mask(batch, **given):
        how.update(given)
        return torch.zeros(64, 64, dtype=torch.uint8)

    monkeypatch.setattr(run.segmenter, "predict_mask", predict_mask)
    run.analyse_file(run.listed("segmenter")[0].record.image)
    assert how == {"scales": (0.5, 1.5), "flip": True, "tile": None, "crf": CRFSettings(side=40)}


def test_tags_where_none_is_likely(run):
    found = run.analyse_file(run.listed("masks")[0].record.image)
    found.probabilities = np.array([0.1, 0.6, 0.2, 0.5], np.float32)
    assert run.likely_tags(found) == [1, 3]
    found.probabilities = np.array([0.1, 0.3, 0.2, 0.2], np.float32)
    assert run.likely_tags(found) == [1]


def test_order_of_the_images_by_hand(run, small_run, drawn):
    def iou(folder, record):
        made = read_mask(small_run / folder / f"{record.id}.png")
        truth = read_mask(drawn / "SegmentationClass" / f"{record.id}.png")
        pairs = [(made == i, truth == i) for i in set(np.unique(made)) | set(np.unique(truth))]
        return np.mean([(one & other).sum() / (one | other).sum() for one, other in pairs])

    # what the segmenter learnt from, and its own masks of images that it has not seen
    for order, folder, count in (
        ("masks", "refined_masks/masks", 24),
        ("segmenter", "segment/test", 8),
    ):
        worst = run.listed(order)
        assert len(worst) == count
        values = [100 * iou(folder, entry.record) for entry in worst]
        np.testing.assert_allclose([entry.value for entry in worst], values)
        assert values == sorted(values) and values[0] < values[-1]
    unsure = [entry.value for entry in run.listed("unsure")]
    assert unsure == sorted(unsure, reverse=True) and 0 <= unsure[-1] < unsure[0] <= 1
    assert all(2 in entry.record.tags for entry in run.listed("masks", tag=2))
    captions = ["photograph", "seed", "pseudo-mask", "refined", "segmenter", "truth"]
    for order, wanted in (("masks", captions), ("segmenter", [*captions[:2], *captions[4:]])):
        pictures = run.pictures(run.listed(order)[0])
        assert [c for _, c in pictures] == wanted
        assert all(p.shape == (640, 640, 3) for p, _ in pictures)


def test_a_run_lists_what_it_has(small_run, tmp_path):
    broken_off = tmp_path / "run"
    shutil.copytree(small_run, broken_off, ignore=shutil.ignore_patterns("segment", "refined_masks"))
    run = Run(broken_off)
    assert run.orders == ["masks", "unsure"]
    assert {entry.mask.parent for entry in run.listed("masks")} == {
        broken_off / "pseudo_masks" / "masks"
    }
    assert [what for _, what in run.pictures(run.listed("unsure")[0])][2:] == ["pseudo-mask", "truth"]
    (broken_off / "pseudo_masks" / "masks.json").unlink()  # no truth is known
    assert run.orders == ["unsure"]


def test_uncertainty_of_sure_and_unsure_images():
    assert uncertainty(np.zeros((0, 4, 4), np.float32), 0.4) == 0
    assert uncertainty(np.zeros((2, 4, 4), np.float32), 0.4) == pytest.approx(0, abs=1e-6)
    assert uncertainty(np.full((2, 4, 4), 0.4, np.float32), 0.4) == pytest.approx(1)


def test_areas_and_names_of_a_mask():
    mask = np.zeros((10, 40), np.uint8)
    mask[:, 20:] = 2
    mask[0, 0] = 255
    assert areas(mask, ["ball", "brick"]) == {"brick": 50.0, "background": 49.75, "void": 0.25}
    grey = np.full((10, 40, 3), 90, np.uint8)
    picture = mask_picture(grey, mask, ["ball", "brick"])
    assert picture.shape == (160, 640, 3) and (picture[5, 30] == 90).all()
    right = picture[:, 330:]
    assert (right == 255).all(2).any() and not (picture[20:, 20:300] == 255).all(2).any()  # the name


def test_bad_photographs_and_folders_are_told(run, tmp_path):
    text, huge = _bad_files(tmp_path)
    with pytest.raises(UserError, match=r"^image holiday <b>\.jpg cannot be read \("):
        run.analyse_file(text)
    with pytest.raises(UserError, match=r"huge\.png has 9000x6000 pixels, more than 50 million"):
        run.analyse_file(huge)
    with pytest.raises(UserError, match=r"no classify/last\.ckpt"):
        Run(tmp_path)


def test_page_without_gradio_says_what_to_install(small_run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["app", str(small_run)]) == 2
    assert "pip install 'gradio" in capsys.readouterr().err
    assert main(["app", "nowhere"]) == 2
    assert "nowhere is not the folder of a finished run" in capsys.readouterr().err


def test_a_port_that_none_is(small_run, capsys):
    pytest.importorskip("gradio")
    assert main(["app", str(small_run), "--port", "70000"]) == 2
    assert "cannot use port 70000" in capsys.readouterr().err


def test_functions_of_the_page(page, run, tmp_path):
    path = run.listed("masks")[0].record.image
    found, note, photograph, chances, names, *rest = page.upload(str(path), 0.4, True)
    maps, pseudo, legend, pseudo_file, segmented, _, mask_file, slots, _ = rest
    assert set(chances) == set(run.classes) and names and photograph.shape == (640, 640, 3)
    assert [caption for _, caption in maps] == names and slots is None
    for button, picture, mask in (
        (pseudo_file, pseudo, run.pseudo_mask(found, run.likely_tags(found), 0.4, True)),
        (mask_file, segmented, found.predicted),
    ):
        with Image.open(button["value"]) as file:
            assert file.mode == "P"
            np.testing.assert_array_equal(np.asarray(file), mask)
        assert picture.shape == (640, 640, 3)
    assert "background" in legend and "<i style" in legend
    # other tags, another threshold
    maps, *_ = page.masks(found, ["star", "ball"], 0.0, False)
    assert [caption for _, caption in maps] == ["ball", "star"] and note == ""
    # the shown photograph is ten times as large as the real one
    picture, words = page.slots(found, "2.0", (325, 155))
    assert words == "Pixel 32,15 of 64x64, 2.0." and picture.ndim == 3
    assert page.slots(found, "2.0", (640, 0))[1] == "Pixel 63,0 of 64x64, 2.0."
    assert page.slots(None, "2.0", (3, 3)) == (None, "")
    # nothing is left of a photograph that was taken away
    assert page.upload(None, 0.4, True)[:5] == (None, "", None, None, [])


def test_page_lists_the_images(page, run):
    gallery, entries, words, number = page.browse("masks", "all", 1)
    assert len(gallery) == 24 and words == "24 images, page 1 of 1" and number == 1
    assert gallery[0][1] == f"IoU {entries[0].value:.0f} %"
    assert page.browse("unsure", "kite", 99)[3] == 1
    words, stages = page.open_entry(entries[0], "masks")
    assert entries[0].record.id in words and gallery[0][1] in words and len(stages) == 6
    shown = page.to_photograph(entries[0], 0.4, True)
    assert shown[4] == [run.classes[tag] for tag in entries[0].record.tags]


def test_page_tells_of_bad_uploads(page, tmp_path):
    import gradio

    text, huge = _bad_files(tmp_path)
    found, note, *_ = page.upload(str(text), 0.4, True)
    assert found is None and "holiday &lt;b&gt;.jpg cannot be read" in note  # it is shown as HTML
    assert str(tmp_path) not in note
    assert "more than 50 million" in page.upload(str(huge), 0.4, True)[1]
    with pytest.raises(gradio.Error, match="Choose an image"):
        page.to_photograph(None, 0.4, True)


def test_page_in_a_browser(small_run, run, tmp_path):
    """The command serves the page; a photograph goes in and a mask comes out, all on this machine."""
    pytest.importorskip("gradio", reason="the page needs Gradio: pip install 'gradio>=6.31,<7'")
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium on this machine: apt-get install chromium")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    record = run.listed("masks")[0].record
    text, _ = _bad_files(tmp_path)
    command = [sys.executable, "-m", "wsss.cli", "app", str(small_run), "--port", str(port)]
    log = tmp_path / "log.txt"
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=os.environ)
    outside = []
    try:
        with sync.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            view = browser.new_page(viewport={"width": 1300, "height": 900})
            view.set_default_timeout(60_000)
            here = (f"http://127.0.0.1:{port}", "data:", "blob:")
            view.on("request", lambda r: None if r.url.startswith(here) else outside.append(r.url))
            while server.poll() is None and f":{port}" not in log.read_text():
                view.wait_for_timeout(200)
            answer = view.goto(f"http://127.0.0.1:{port}")
            assert answer.ok and "default-src 'self'" in answer.headers["content-security-policy"]
            view.set_input_files("#upload input[type=file]", record.image)
            view.wait_for_selector("#pseudo img", state="attached")
            with view.expect_download() as download:
                view.locator("#get-pseudo").click()
            saved = tmp_path / "mask.png"
            download.value.save_as(saved)
            assert download.value.suggested_filename == f"{record.id}-pseudo-mask.png"
            new = shutil.copy(record.image, tmp_path / "uploaded.jpg")  # to the page it is anybody's
            found = run.analyse_file(new)
            made = run.pseudo_mask(found, run.likely_tags(found), run.background, True)
            np.testing.assert_array_equal(read_mask(saved), made)

            view.locator("#photograph img").click(position={"x": 40, "y": 60})
            view.wait_for_selector("#slots img", state="attached")
            picture = Image.open(io.BytesIO(view.screenshot(full_page=True)))
            assert picture.width == 1300 and len(picture.getcolors(10**6)) > 1000

            # another file: a message, and the page goes on
            view.get_by_label("Clear").or_(view.get_by_label("Remove")).first.click()
            view.set_input_files("#upload input[type=file]", text)
            view.locator("#note").get_by_text("cannot be read").wait_for()
            assert view.locator("#pseudo img").count() == 0
            view.get_by_role("tab", name="The run's images").click()
            view.locator("#images img").first.click()
            view.wait_for_selector("#stages img", state="attached")
            assert view.get_by_text(run.listed("segmenter")[0].record.id).count() == 1
            view.locator("#over").click()
            view.wait_for_selector("#pseudo img")
            browser.close()
    finally:
        server.terminate()
        server.wait(30)
    assert not outside
    assert "Traceback" not in log.read_text(), log.read_text()
