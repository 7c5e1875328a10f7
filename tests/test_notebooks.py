"""Every notebook runs, is clean, and pivad/ is what the notebooks export."""
import filecmp
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from readme import readme

NBS = ROOT / "nbs"
NOTEBOOKS = sorted(p for p in NBS.glob("*.ipynb") if not p.name.startswith(("_", ".")))
ALL = sorted(p for p in NBS.rglob("*.ipynb") if not any(q.startswith((".", "_")) for q in p.relative_to(NBS).parts))


def command(name):
    "An nbdev command of this environment"
    return str(Path(sys.executable).with_name(name))


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    "A copy of everything that export and clean read and write"
    folder = tmp_path_factory.mktemp("copy")
    for d in ("nbs", "pivad"):
        shutil.copytree(ROOT / d, folder / d, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    for f in ("settings.ini", "setup.py", "pyproject.toml", "_quarto.yml", "README.md"):
        shutil.copy(ROOT / f, folder / f)
    return folder


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_runs(path):
    from nbdev.test import test_nb

    ok, _ = test_nb(path)
    assert ok, f"{path.name} fails, see the traceback above"


def test_there_are_notebooks():
    assert len(NOTEBOOKS) > 15


def test_export_in_sync(copy):
    subprocess.run([command("nbdev-export")], cwd=copy, check=True, timeout=300)
    names = sorted(p.name for p in (ROOT / "pivad").glob("*.py"))
    assert sorted(p.name for p in (copy / "pivad").glob("*.py")) == names
    _, different, errors = filecmp.cmpfiles(ROOT / "pivad", copy / "pivad", names, shallow=False)
    assert not different and not errors, f"run nbdev-export: {different + errors}"


def test_clean(copy):
    subprocess.run([command("nbdev-clean")], cwd=copy, check=True, timeout=300)
    dirty = [str(p.relative_to(ROOT)) for p in ALL if p.read_text() != (copy / p.relative_to(ROOT)).read_text()]
    assert not dirty, f"run nbdev-clean: {dirty}"


@pytest.mark.parametrize("path", ALL, ids=lambda p: p.stem)
def test_committed_outputs(path):
    "Outputs are those of a clean run: no errors, none unexecuted but experiments, whose executed versions lie in results/"
    import nbformat

    code = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code" and c.source.strip()]
    errors = [o.ename for c in code for o in c.outputs if o.output_type == "error"]
    assert not errors and (path.parent.name == "experiments" or any(c.outputs for c in code))


ORDER = re.findall(r"\b(\d\d_\w+)\.ipynb", (ROOT / "_quarto.yml").read_text())   # of reading


def test_nothing_needs_looking_ahead():
    "A notebook imports only from those before it in the order of reading, and numbers go up"
    assert [n[:2] for n in ORDER] == sorted(n[:2] for n in ORDER) and sorted(ORDER) == [p.stem for p in NOTEBOOKS if p.stem[:2].isdigit()]
    place = {n.partition("_")[2]: i for i, n in enumerate(ORDER)}
    ahead = set()
    for i, name in enumerate(ORDER):
        cells = [c["source"] for c in json.loads((NBS / f"{name}.ipynb").read_text())["cells"] if c["cell_type"] == "code"]
        imported = set(re.findall(r"^\s*(?:from|import) pivad\.(\w+)", "\n".join("".join(c) for c in cells), re.M))
        ahead |= {(name, m) for m in imported if place[m] >= i}
    assert not ahead


@pytest.mark.parametrize("path", ALL, ids=lambda p: p.stem)
def test_opens_with_what_it_is(path):
    "A title and one sentence in the first cell; every link to a notebook in prose leads to one"
    cells = ["".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "markdown"]
    assert re.match(r"# \S[^\n]*\n+> \S", cells[0])
    links = re.findall(r"\]\(([^)#:]+\.ipynb)", "\n".join(cells))
    assert not [href for href in links if not (path.parent / href).is_file()]


def test_readme_is_index():
    assert (ROOT / "README.md").read_text() == readme(), "run make readme"
