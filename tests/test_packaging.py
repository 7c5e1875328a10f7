"""settings.ini is the only place of metadata, and what is built from it is complete."""
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from email import message_from_bytes

import pytest

from conftest import ROOT


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    "sdist and wheel, built from the files that belong to the product"
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(out), str(ROOT)], check=True, timeout=900, stdout=subprocess.DEVNULL)
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


def test_wheel(built):
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    settings = config["DEFAULT"]
    with zipfile.ZipFile(built[0]) as wheel:
        names = wheel.namelist()
        metadata = message_from_bytes(wheel.read(next(n for n in names if n.endswith("METADATA"))))
        entry_points = wheel.read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
    modules = {n for n in names if n.endswith(".py")}
    assert modules == {f"pivad/{p.name}" for p in (ROOT / "pivad").glob("*.py")}
    assert (metadata["Name"], metadata["Version"]) == (settings["lib_name"], settings["version"])
    required = [r for r in metadata.get_all("Requires-Dist") if "extra ==" not in r]
    assert len(required) == len(settings["requirements"].split())
    assert set(metadata.get_all("Provides-Extra")) == {"notebooks", "light", "paper", "ray", "dev"}
    assert "pivad = pivad.cli:main" in entry_points and "LICENSE" in " ".join(names)
    assert "Apache" in (metadata["License"] or metadata["License-Expression"])


def test_sdist_builds_without_the_repository(built):
    with tarfile.open(built[1]) as sdist:
        names = {n.split("/", 1)[1] for n in sdist.getnames() if "/" in n}
    assert {"settings.ini", "setup.py", "pyproject.toml", "README.md", "pivad/model.py"} <= names
