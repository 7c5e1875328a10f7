"""Fixtures that several test files use."""
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared():
    "The folder with real videos and reference values beside the checkout; not part of the product, so tests skip without it."
    path = Path(os.environ.get("PIVAD_SHARED") or ROOT.parent / "shared")
    if not path.is_dir():
        pytest.skip(f"needs real videos and reference values, and there is no folder {path.name}/ beside the checkout (or $PIVAD_SHARED)")
    return path
