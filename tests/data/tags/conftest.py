"""What tests of tags begin with."""

from pathlib import Path

import pytest
from tag_samples import photographs

from wsss.errors import forget_notices


@pytest.fixture(autouse=True)
def _anew():
    forget_notices()


@pytest.fixture
def root(tmp_path) -> Path:
    """The photographs of `tag_samples`."""
    return photographs(tmp_path / "photos")
