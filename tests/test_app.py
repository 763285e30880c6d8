"""The page of `wsss app`: what it says, and how it works in a real browser."""

import io
import os
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
from odd_files import unreadable_uploads
from PIL import Image

from wsss.cli import main
from wsss.data.masks import read_mask
from wsss.explore import Run

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

    text, huge = unreadable_uploads(tmp_path)
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
    text, _ = unreadable_uploads(tmp_path)
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
