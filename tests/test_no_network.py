"""Nothing is asked of any other machine, neither by importing nor by serving the page."""

import subprocess
import sys

import pytest
import timm
from safetensors.torch import save_file

WATCH = """
import socket, sys
asked = []
def watch(name):
    real = getattr(socket, name)
    def watched(host, *args, **kwargs):
        if host not in ("127.0.0.1", "localhost", None):
            asked.append(host)
        return real(host, *args, **kwargs)
    setattr(socket, name, watched)
watch("getaddrinfo")
watch("gethostbyname")
"""


def _asked(code: str) -> str:
    words = [sys.executable, "-c", WATCH + code + "\nprint('asked', asked)"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()[-1]


def test_importing_asks_nobody():
    assert _asked("import wsss.lightning_cli, wsss.pipeline, wsss.api") == "asked []"


@pytest.mark.parametrize("kind", ["classify", "segment"])
def test_a_weight_file_takes_the_place_of_a_download(kind, tmp_path):
    weights = tmp_path / "w.safetensors"
    save_file(timm.create_model("mobilenetv2_050").state_dict(), weights)
    given = f"pretrained=True, weights={str(weights)!r}"
    make = {
        "classify": f"ClassificationTask(['a', 'b'], 'mobilenetv2_050', {given})",
        "segment": f"SegmentationTask(['a', 'b'], 'Unet', 'mobilenetv2_050', {given})",
    }[kind]
    code = "from wsss.tasks.classification import ClassificationTask\n"
    code += f"from wsss.tasks.segmentation import SegmentationTask\n{make}"
    assert _asked(code) == "asked []"


def test_serving_the_page_asks_nobody(small_run):
    pytest.importorskip("gradio", reason="the page needs Gradio: pip install 'gradio>=6.31,<7'")
    code = f"""
import time
from wsss.app import build, serve
from wsss.explore import Run
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
run = Run({str(small_run)!r})
page = serve(lambda folder: build(run, folder), port, block=False)
time.sleep(3)  # what Gradio asks, it asks from a thread
page.close()
"""
    assert _asked(code) == "asked []"
