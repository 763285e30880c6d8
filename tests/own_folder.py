"""A folder of one's own photographs, and `wsss check` of it."""

import json
from pathlib import Path

from odd_files import photo

from wsss.cli import main


def make_folder(root: Path) -> Path:
    """Twenty clean photographs of two classes, in a sub-folder with a space and an umlaut."""
    (root / "größe 1").mkdir(parents=True)
    lines = ["image,tags"]
    for number in range(20):
        photo(100 + number).save(root / "größe 1" / f"bild {number:02d}.jpg")
        lines.append(f"größe 1/bild {number:02d}.jpg,{'cat' if number % 2 else 'big dog'}|")
    (root / "tags.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def add_row(root: Path, name: str, tags: str = "cat") -> None:
    """Add a row to the folder's table."""
    with (root / "tags.csv").open("a", encoding="utf-8") as file:
        file.write(f"{name},{tags}\n")


def checked(root: Path, folder: Path) -> tuple[int, dict]:
    """Exit code of `wsss check` and what it wrote to `folder`."""
    code = main(["check", str(root), "--json", str(folder / "report.json")])
    return code, json.loads((folder / "report.json").read_text(encoding="utf-8"))
