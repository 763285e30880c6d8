"""The demo's pipeline made small, for tests that need a run."""

import shutil
from pathlib import Path

import yaml

PROJECT = Path(__file__).parent.parent


def small_pipeline(folder: Path, num_workers: int = 0) -> Path:
    """Copy the demo's configs into `folder`, one epoch at 64 pixels; returns its pipeline.yaml."""
    shutil.copytree(PROJECT / "configs" / "demo", folder)
    for name, size in (("classify", "size"), ("pseudo_masks", "size"), ("segment", "crop")):
        path = folder / f"{name}.yaml"
        config = yaml.safe_load(path.read_text())
        config["data"] |= {size: 64, "num_workers": num_workers, "batch_size": 6}
        config["trainer"] |= {"accelerator": "cpu", "enable_progress_bar": False}
        if name == "pseudo_masks":
            # as elsewhere, but for the steps: what slots teach each other takes seconds
            config["masks"] |= {"relabel_slots": True, "steps": 40}
        else:
            config["trainer"] |= {"max_epochs": 1, "check_val_every_n_epoch": 1}
        path.write_text(yaml.safe_dump(config))
    path = folder / "refine.yaml"
    config = yaml.safe_load(path.read_text())
    config["data"]["num_workers"] = num_workers
    config["trainer"] |= {"accelerator": "cpu", "enable_progress_bar": False}
    path.write_text(yaml.safe_dump(config))
    return folder / "pipeline.yaml"
