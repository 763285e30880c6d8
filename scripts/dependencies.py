"""Write docs/dependencies.md: what an installation of wsss brings, with versions and licences.

python scripts/dependencies.py

Run it in an environment of constraints.txt that has the extras, as that of `make test`: the table is of
the packages there.
"""

import platform
import re
from datetime import date
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

PAGE = Path(__file__).parents[1] / "docs" / "dependencies.md"

EXTRAS = ("", "app", "excel", "export")
"""Of what a user installs; what tests and documents need is left out."""

TEXT = """# Dependencies

What an installation of wsss brings: its own dependencies and theirs. `scripts/dependencies.py` writes
this page from the metadata of the installed packages: {date}, Python {python}, {system}, the versions
of `constraints.txt`.

- "For" says who needs a package: wsss itself, an extra of wsss (`[app]`, `[excel]`, `[export]`), or the
  first of the others that does.
- `constraints.txt` fixes the versions of what wsss itself and its extras need. Of the others an
  installation takes the newest that fits, here those of the date above.
- The licence is what the package states. Libraries inside a wheel (of OpenCV, PyTorch, SciPy) have
  licences of their own, which lie beside the package.
- NVIDIA's packages come with PyTorch's build for GPUs and are not free software. PyTorch's build for
  CPUs, as in the [container](how-to/container.md), has none of them.
- `glnet_nano.safetensors` and `glnet_tiny.safetensors` come with wsss under its own licence, MIT;
  `glnet_lite.safetensors` under Apache-2.0 ([cards](models/glnet_lite.md)).

**Known vulnerabilities.** {audit}
[A release](../CONTRIBUTING.md#a-release) begins with that check.

{table}
"""

AUDIT = "No list of them has been asked about these versions yet: that needs the internet."
"""What came of the last audit; correct it when one was made."""


def packages(extras: tuple[str, ...] = EXTRAS) -> dict[str, tuple[Distribution, str]]:
    """Name -> package and who asks for it, of all that wsss and its extras need here."""
    found: dict[str, tuple[Distribution, str]] = {}
    left = [("wsss", extra) for extra in extras]
    seen = set(left)
    while left:
        owner, extra = left.pop(0)
        for line in distribution(owner).requires or ():
            wanted = Requirement(line)
            by_extra = wanted.marker and not wanted.marker.evaluate({"extra": ""})
            if wanted.marker and not wanted.marker.evaluate({"extra": extra}):
                continue
            if extra and not by_extra and owner == "wsss":
                continue  # what wsss itself needs comes with no extra
            name = plain(wanted.name)
            label = f"wsss[{extra}]" if owner == "wsss" and extra else owner
            try:
                found.setdefault(name, (distribution(name), label))
            except PackageNotFoundError:
                raise SystemExit(f"{name} is not installed, which {label} needs") from None
            for one in ("", *sorted(wanted.extras)):
                if (name, one) not in seen:
                    seen.add((name, one))
                    left.append((name, one))
    return found


def plain(name: str) -> str:
    """A package's name as registries compare names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licence(package: Distribution) -> str:
    """The licence that a package states, in a line."""
    about = package.metadata
    stated = (about.get("License-Expression") or about.get("License") or "").strip()
    if stated and "\n" not in stated and len(stated) < 200:
        return stated
    kinds = [kind for kind in about.get_all("Classifier") or () if kind.startswith("License :: ")]
    return ", ".join(kind.rpartition(" :: ")[2] for kind in kinds) or "not stated"


def page() -> str:
    """The document."""
    rows = sorted(packages().items(), key=lambda row: (not row[1][1].startswith("wsss"), row[0]))
    lines = ["| package | version | licence | for |", "|---|---|---|---|"]
    lines += [f"| {name} | {one.version} | {licence(one)} | {by} |" for name, (one, by) in rows]
    return TEXT.format(
        date=date.today(),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        audit=AUDIT,
        table="\n".join(lines),
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
