"""One's own photographs: odd files, forms of tags, `wsss check` and `wsss predict`."""

import csv
import errno
import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from odd_files import ODD, UNREADABLE, deep_tiff, photo
from own_folder import add_row, checked

from wsss.cli import main
from wsss.data.catalog import read_catalog
from wsss.data.masks import read_mask, write_mask
from wsss.errors import UserError, UserNotice, forget_notices
from wsss.files import write_atomic


def test_a_snapshot_of_links_is_a_folder_like_any_other(tmp_path, checkpoint):
    """As the hub of Hugging Face keeps it: files are links to what lies outside."""
    root, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    (root / "deep").mkdir(parents=True)
    blobs.mkdir()
    lines = ["image,tags"]
    for number in range(20):
        name = f"deep/{number}.jpg" if number % 3 else f"{number}.jpg"
        photo(number).save(blobs / f"{number:x}", "JPEG")
        (root / name).symlink_to(
            Path("../../blobs" if number % 3 == 0 else "../../../blobs") / f"{number:x}"
        )
        lines.append(f"{name},{'cat' if number % 2 else 'dog'}")
    (root / "deep" / "lost.jpg").symlink_to("nowhere")
    (tmp_path / "tags.csv").write_text("\n".join(lines))
    words = [str(root), "--tags", str(tmp_path / "tags.csv")]
    forget_notices()
    with pytest.warns(UserNotice, match=r"1 links that lead nowhere \(first: .*lost\.jpg\)"):
        assert main(["check", *words]) == 0
    assert main(["init", *words, "--backbone", "glnet_nano", "--out", str(tmp_path / "out")]) == 0
    assert len(read_catalog("folder", root, "all", tags=tmp_path / "out" / "tags.csv").records) == 20
    words = ["predict", str(root), "--ckpt", str(checkpoint), "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "new")]) == 0
    assert len(list((tmp_path / "new").rglob("*.png"))) == 20


FOREIGN = (
    "3fr arq arw cr2 cr3 crw dng erf fff iiq k25 kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl sr2 "
    "srf srw x3f dcr heic heics heif hif avif jxl jp2 j2k jpf jpx tga exr hdr psd svg HEIC"
)


def test_every_format_that_is_not_read_is_named(good, checkpoint, tmp_path, capsys):
    names = [f"{suffix}.{suffix}" for suffix in FOREIGN.split()]
    for name in names:
        photo(1).save(good / name, format="JPEG")
        add_row(good, name)
    found = checked(good, tmp_path)[1]["warnings"]
    assert found["unreadable: format that is not read (save it as JPEG or PNG)"] == sorted(names)
    out = tmp_path / "out"
    assert main(["init", str(good), "--backbone", "glnet_nano", "--out", str(out)]) == 0
    with (out / "left_out.csv").open(encoding="utf-8") as file:
        assert {row["image"] for row in csv.DictReader(file)} == set(names)
    capsys.readouterr()
    words = ["predict", str(good), "--ckpt", str(checkpoint), "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "new")]) == 1
    said = capsys.readouterr().err
    assert all(f"{good / name} is of a format that is not read" in said for name in names)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    from wsss.tasks.segmentation import SegmentationTask

    torch.manual_seed(0)
    settings = {"decoder": "Unet", "encoder": "mobilenetv2_050"}
    task = SegmentationTask(["big dog", "cat"], **settings)
    path = tmp_path_factory.mktemp("ckpt") / "last.ckpt"
    content = {"kind": "segment", "classes": task.classes, "hyper_parameters": settings}
    torch.save(content | {"state_dict": task.state_dict()}, path)
    return path


def test_predict_is_untouched_by_odd_files(good, checkpoint, tmp_path, capsys):
    words = ["predict", "--ckpt", str(checkpoint), "--device", "cpu", str(good), "--out"]
    assert main([*words, str(tmp_path / "before")]) == 0
    for name, (make, _) in (UNREADABLE | ODD).items():
        if name != "huge.png":
            make(good / name)
    out = tmp_path / "after"
    capsys.readouterr()
    assert main([*words, str(out)]) == 1
    said = capsys.readouterr().err
    assert all(f"{name} " in said for name in UNREADABLE)
    masks = sorted((tmp_path / "before" / "masks").rglob("*.png"))
    assert len(masks) == 20
    for path in masks:
        other = out / path.relative_to(tmp_path / "before")
        assert other.read_bytes() == path.read_bytes()
    assert read_mask(out / "masks" / "turned.png").shape == (56, 40)  # upright
    rows = list(csv.DictReader((out / "areas.csv").open(encoding="utf-8")))
    assert len(rows) == 20 + len(ODD) - 1
    for row in rows:
        mask = read_mask(out / "masks" / f"{row['image']}.png")
        assert float(row["cat"]) == pytest.approx(100 * (mask == 2).mean(), abs=1e-3)

    # again, after a spreadsheet has saved the table in its own way
    table = (out / "areas.csv").read_bytes()
    one = next(str(p) for p in good.glob("*.jpg") if (out / "masks" / f"{p.stem}.png").is_file())
    for form in (table.replace(b",", b";"), table.replace(b"0.000", b'"0,0"'), b"", b"\xff\xfe"):
        (out / "areas.csv").write_bytes(form)
        assert main([*(one if word == str(good) else word for word in words), str(out)]) == 0
        shown = list(csv.DictReader((out / "areas.csv").open(encoding="utf-8")))
        assert sorted(shown, key=str) == sorted(rows, key=str)

    # again: kept files stay, a lost one is made again
    kept = {path: path.stat().st_mtime_ns for path in (out / "masks").rglob("*.png")}
    lost = out / "masks" / "grey.png"
    lost.unlink()
    assert main([*words, str(out)]) == 1
    after = {path: path.stat().st_mtime_ns for path in (out / "masks").rglob("*.png")}
    assert [path for path in after if after[path] != kept[path]] == [lost]


@pytest.mark.parametrize("fault", [errno.ENAMETOOLONG, errno.EILSEQ, errno.ENOSPC, errno.EACCES])
def test_predict_goes_on_where_one_name_cannot_be_written(
    fault, good, checkpoint, tmp_path, monkeypatch, capsys
):
    def write(path, content):
        if path.name.startswith("bild 03"):
            raise OSError(fault, os.strerror(fault), str(path))
        write_atomic(path, content)

    monkeypatch.setattr("wsss.data.masks.write_atomic", write)
    out = tmp_path / "out"
    words = ["predict", str(good), "--ckpt", str(checkpoint), "--device", "cpu", "--out", str(out)]
    code, said = main(words), capsys.readouterr().err
    if fault in (errno.ENOSPC, errno.EACCES):  # the next one cannot be written either
        assert code == 2 and f"bild 03.png: {os.strerror(fault)}" in said
        return
    assert code == 1
    assert (
        f"left out: image {good / 'größe 1' / 'bild 03.jpg'}: " in said and os.strerror(fault) in said
    )
    rows = list(csv.DictReader((out / "areas.csv").open(encoding="utf-8")))
    assert len(rows) == 19 == len(list(out.rglob("*.png")))


def test_predict_shows_16_bits_as_in_training(checkpoint, tmp_path, monkeypatch):
    content = torch.load(checkpoint, weights_only=True)
    torch.save(content | {"white": 65535}, tmp_path / "last.ckpt")
    (tmp_path / "new").mkdir()
    dark = np.linspace(0, 4000, 40 * 56).reshape(40, 56).astype(np.uint16)  # of a camera of 16 bits
    (tmp_path / "new" / "dark.tif").write_bytes(deep_tiff(dark))
    brightest = []

    def shown(image, mask):
        brightest.append(image.max())
        return image

    monkeypatch.setattr("wsss.predict.overlay", shown)
    for number, ckpt in enumerate((tmp_path / "last.ckpt", checkpoint)):
        words = ["predict", str(tmp_path / "new"), "--ckpt", str(ckpt), "--device", "cpu"]
        assert main([*words, "--out", str(tmp_path / str(number))]) == 0
    assert brightest == [4000 * 255 // 65535, 4000 * 255 // 4095]


def test_a_checkpoint_tells_what_was_white(good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, tag in enumerate(("cat", "big dog")):
        ramp = np.linspace(0, 9000 - number, 40 * 56).reshape(40, 56).astype(np.uint16)
        (good / f"{number}.tif").write_bytes(deep_tiff(ramp))
        add_row(good, f"{number}.tif", f"{tag}|")
    words = ["classify", "fit", "--data.layout", "folder", "--data.root", str(good)]
    words += ["--data.size", "64", "--data.num_workers", "0", "--data.batch_size", "4"]
    words += ["--model.backbone", "glnet_nano", "--trainer.accelerator", "cpu"]
    words += ["--trainer.max_epochs", "1", "--trainer.logger", "false"]
    assert main(words) == 0
    from wsss.tasks.classification import ClassificationTask

    assert ClassificationTask.from_checkpoint("checkpoints/last.ckpt").white == 16383


def test_predict_does_not_take_one_photograph_for_another(checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    for number, card in enumerate(("a", "b")):
        (tmp_path / card).mkdir()
        photo(number).save(tmp_path / card / "DSC_1.jpg")
        photo(9).save(tmp_path / card / f"only {card}.jpg")

    def predict(folder):
        words = ["--ckpt", str(checkpoint), "--device", "cpu", "--out", str(out)]
        return main(["predict", str(tmp_path / folder), *words])

    def rows():
        return [row["image"] for row in csv.DictReader((out / "areas.csv").open(encoding="utf-8"))]

    assert predict("a") == 0 and rows() == ["DSC_1", "only a"]
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    capsys.readouterr()
    assert predict("b") == 2
    error = capsys.readouterr().err
    assert "overlays/DSC_1.jpg is of another photograph of the same name as" in error
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before
    (tmp_path / "b" / "DSC_1.jpg").unlink()
    assert predict("b") == 0 and rows() == ["DSC_1", "only a", "only b"]  # added to the others

    times = {path: path.stat().st_mtime_ns for path in (out / "masks").iterdir()}
    (tmp_path / "a").rename(tmp_path / "moved")
    photo(5).save(tmp_path / "moved" / "new.jpg")
    assert predict("moved") == 0 and rows() == ["DSC_1", "only a", "only b", "new"]
    (tmp_path / "moved").rename(tmp_path / "a")
    photo(6).save(tmp_path / "a" / "DSC_1.jpg")  # developed again
    assert predict("a") == 0
    after = {path: path.stat().st_mtime_ns for path in times}
    assert [path.name for path in times if times[path] != after[path]] == ["DSC_1.png"]


def test_predict_spares_masks_that_are_not_its_own(checkpoint, tmp_path, capsys):
    photo(0).save(tmp_path / "x.jpg")
    truth = tmp_path / "masks" / "x.png"
    write_mask(truth, np.ones((40, 56), np.uint8))
    before = truth.read_bytes()
    words = ["predict", "--ckpt", str(checkpoint), "--device", "cpu", "--out", str(tmp_path)]
    for given, said in (
        (tmp_path, "taken for ground truth"),
        (tmp_path / "x.jpg", "of another origin"),
    ):
        assert main([*words, str(given)]) == 2
        assert said in capsys.readouterr().err
    assert truth.read_bytes() == before


def test_predict_tiles_what_is_large(checkpoint, tmp_path, monkeypatch):
    from wsss import predict
    from wsss.models.segmenter import SegmentationNetwork

    sides = []
    forward = SegmentationNetwork.forward

    def spy(self, images):
        sides.append(tuple(images.shape[-2:]))
        return forward(self, images)

    monkeypatch.setattr(SegmentationNetwork, "forward", spy)
    monkeypatch.setattr(predict, "TILE", 64)
    photo(0, 150, 90).save(tmp_path / "large.jpg")
    words = ["predict", "--ckpt", str(checkpoint), str(tmp_path / "large.jpg")]
    words += ["--device", "cpu", "--out"]
    assert main([*words, str(tmp_path / "as-tested")]) == 0
    assert set(sides) == {(150, 90)}
    sides.clear()
    assert main([*words, str(tmp_path / "out"), "--max-side", "150"]) == 0
    assert read_mask(tmp_path / "out" / "masks" / "large.png").shape == (150, 90)
    assert set(sides) == {(64, 64)}


def test_predict_runs_no_code_from_a_checkpoint(good, tmp_path, capsys):
    class Attack:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"kind": "segment", "x": Attack()}, tmp_path / "evil.ckpt")
    words = ["predict", "--ckpt", str(tmp_path / "evil.ckpt"), str(good), "--out", str(tmp_path)]
    assert main(words) == 2 and "no code is run" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_training_goes_on_with_odd_files(good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, (make, _) in (UNREADABLE | ODD).items():
        if name != "huge.png":
            make(good / name)
            add_row(good, name)
    words = ["classify", "fit", "--data.layout", "folder", "--data.root", str(good)]
    words += ["--data.size", "64", "--data.num_workers", "0", "--data.batch_size", "4"]
    words += ["--model.backbone", "glnet_nano", "--trainer.accelerator", "cpu"]
    words += ["--trainer.max_epochs", "1", "--trainer.logger", "false"]
    with pytest.warns(UserWarning, match=r"zero\.jpg"):
        assert main(words) == 0


def test_segmenter_reads_weights_strictly_and_runs_no_code_from_them(drawn, tmp_path, capsys):

    class Attack:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"state_dict": {"x": Attack()}}, tmp_path / "evil.pth")
    torch.save(timm.create_model("glnet_nano").state_dict(), tmp_path / "other.pth")
    words = ["segment", "fit", "--data.root", str(drawn), "--model.encoder", "mobilenetv2_050"]
    for name, said in (("evil.pth", "no code is run"), ("other.pth", "does not hold the weights")):
        assert main([*words, "--model.weights", str(tmp_path / name)]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_without_a_download_one_sentence(monkeypatch):
    import segmentation_models_pytorch as smp

    from wsss.models.classifier import TagClassifier
    from wsss.models.segmenter import SegmentationNetwork

    def offline(*args, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.setattr(smp, "create_model", offline)
    with pytest.raises(UserError, match=r"mobilenetv2_100 cannot be downloaded.*--weights"):
        TagClassifier("mobilenetv2_100", 2, pretrained=True)
    with pytest.raises(UserError, match=r"mobilenetv2_100 cannot be downloaded.*--weights"):
        SegmentationNetwork("Unet", "mobilenetv2_100", 3, pretrained=True)
