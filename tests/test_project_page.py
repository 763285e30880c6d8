"""The page of projects in a real browser: from uploaded photographs to the report."""

import os
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image
from processes import WSSS, free_port, until

from wsss.data.masks import read_mask
from wsss.data.synthetic import SYNTHETIC_CLASSES, draw_scene

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in BROWSERS if (path := shutil.which(name))), None)
PATIENCE = 300_000
"""Milliseconds that a step may take on a busy machine."""


@pytest.fixture
def files(tmp_path):
    """Twelve drawn photographs and their table of tags, of a class with a hostile name."""
    lines = ["image,tags"]
    names = [*SYNTHETIC_CLASSES[:3], "<img src=x onerror=alert(1)>"]
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(12):
        image, mask = draw_scene(np.random.default_rng(number), 64)
        tags = "|".join(names[label - 1] for label in np.unique(mask) if label)
        name = "img 11 $(a).jpg" if number == 11 else f"img {number:02d}.jpg"
        lines.append(f"{name},{tags}")
        Image.fromarray(image).save(folder / name)
    (folder / "tags.csv").write_text("\n".join(lines) + "\n")
    return sorted(folder.iterdir())


class Server:
    """`wsss app` in a folder, and a browser's page of it."""

    def __init__(self, folder, view) -> None:
        self.port, self.log = free_port(), folder / "server.log"
        with self.log.open("ab") as output:
            words = [sys.executable, *WSSS, "app", "--port", str(self.port)]
            self.process = subprocess.Popen(
                words, cwd=folder, stdout=output, stderr=subprocess.STDOUT, env=os.environ
            )
        until(
            lambda: self.process.poll() is not None or f":{self.port}" in self.log.read_text(),
            PATIENCE / 1000,
        )
        view.goto(f"http://127.0.0.1:{self.port}")

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(300)


def test_a_project_from_photographs_to_the_report(files, tmp_path):
    pytest.importorskip("gradio", reason="the page needs Gradio: pip install 'gradio>=6.31,<7'")
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium on this machine: apt-get install chromium")
    project = tmp_path / "projects" / "bees 1"
    outside, dialogs, servers = [], [], []
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": 1300, "height": 900})
        view.set_default_timeout(PATIENCE)
        here = ("http://127.0.0.1:", "data:", "blob:")
        view.on("request", lambda r: None if r.url.startswith(here) else outside.append(r.url))
        view.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        try:
            servers.append(Server(tmp_path, view))
            view.get_by_label("New project").fill("../evil")
            view.locator("#make").click()
            view.locator("#problem").get_by_text("a project's name begins").wait_for()
            view.get_by_label("New project").fill(project.name)
            view.locator("#make").click()
            view.locator("#contents").get_by_text("0 photographs").wait_for()
            view.locator("#check").click()
            view.locator("#problem").get_by_text("no table of tags").wait_for()  # as init says it

            view.set_input_files("#add input[type=file]", files)
            view.locator("#contents").get_by_text("12 photographs; beside them tags.csv").wait_for()
            assert (project / "photographs" / "img 00.jpg").read_bytes() == files[0].read_bytes()
            view.locator("#backbone input").fill("glnet_nano")
            view.keyboard.press("Enter")
            view.get_by_label("a trial").check()
            view.locator("#check").click()
            view.locator("#understood").get_by_text("img 00.jpg: brick, <img src=x").wait_for()
            assert "12 images, 12 tagged" in view.locator("#verdict").inner_text()

            view.locator("#start").click()
            view.locator("#status progress").wait_for()
            view.locator("#stop").click()  # long before it has ended, which may be in seconds
            view.locator("#start:has-text('Go on')").wait_for()
            view.locator("#status").get_by_text("The run was stopped").wait_for()
            # the program is started anew
            servers[0].end()
            servers.append(Server(tmp_path, view))
            view.locator("#start:has-text('Go on')").click()
            view.locator("#report").wait_for()
            with view.expect_popup() as opened:
                view.locator("#report").click()
            opened.value.get_by_role("heading", level=1).wait_for()
            assert opened.value.title() == "wsss: trial"
            with view.expect_download() as download:
                view.locator("#masks").click()
            download.value.save_as(tmp_path / "masks.zip")
            assert download.value.suggested_filename == "bees 1-trial-masks.zip"
            with zipfile.ZipFile(tmp_path / "masks.zip") as archive:
                names = archive.namelist()
                archive.extract(names[0], tmp_path)
            assert len(names) == 9 and read_mask(tmp_path / names[0]).shape == (64, 64)

            view.locator("#look").click()
            view.set_input_files("#upload input[type=file]", files[0])
            view.wait_for_selector("#pseudo img", state="attached")
            browser.close()
        finally:
            for server in servers:
                server.end()
    said = servers[0].log.read_text()
    assert not outside and not dialogs and "Traceback" not in said, said
    assert (project / "trial" / "run.log").read_text().count("$ wsss run") == 2
    assert {path.name for path in project.parent.iterdir()} == {project.name}  # no upload is left
