"""What keeps the repository in order: documented parameters, a README whose commands are tested ones, lint, workflows that call make."""
import ast
import importlib
import inspect
import json
import re
import shlex
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import click
import pytest
import yaml

from conftest import ROOT

sys.path.insert(0, str(ROOT / "docs"))
import build  # noqa: E402  docs/build.py, which writes the reference
import figure  # noqa: E402  docs/figure.py

MODULES = sorted(p.stem for p in (ROOT / "pivad").glob("[a-z]*.py"))


def public(module):
    "name -> function or class (a click command counts as its function) of a module's `__all__`"
    mod = importlib.import_module(f"pivad.{module}")
    found = {n: getattr(mod, n) for n in mod.__all__}
    return {n: o for n, o in found.items() if inspect.isfunction(o) or inspect.isclass(o) or isinstance(o, click.Command)}


def undocumented(obj):
    "Parameters without a comment; of a command, options without help"
    if isinstance(obj, click.Command):   # an argument is explained by the command's own text
        return [p.name for p in obj.get_params(click.Context(obj)) if isinstance(p, click.Option) and not p.help] + ([] if obj.help else ["help"])
    missing = [n for n, (_, _, comment) in build.parameters(obj).items() if n != "return" and not comment]
    return missing + ([] if inspect.getdoc(obj) else ["docstring"])


def test_parameters_are_documented():
    "Every public function and class of every module says what it is and what each parameter is"
    found = {f"{m}.{n}": gaps for m in MODULES for n, o in public(m).items() if (gaps := undocumented(o))}
    assert not found, f"write a comment beside these parameters: {found}"


def test_an_undocumented_parameter_is_found():
    def f(a, # known
          b): "Doc"
    assert undocumented(f) == ["b"]


def test_reference_has_every_name(tmp_path):
    "Each name of each `__all__`, functions, classes and constants, is a heading on its module's page"
    (tmp_path / "proc").mkdir()
    build.stage_reference(tmp_path / "proc", {})
    for m in MODULES:
        text = (tmp_path / "proc" / "api" / f"{m}.qmd").read_text()
        names = importlib.import_module(f"pivad.{m}").__all__
        assert not [n for n in names if f"{{#{n}}}" not in text], m
    assert "`--lambda-1`" in (tmp_path / "proc" / "api" / "cli.qmd").read_text()   # an option that train makes from TrainConfig
    assert "| `latent` | `int` | `256` | Width of the shared latent space" in (tmp_path / "proc" / "api" / "pmg.qmd").read_text()


# ---- commands

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "nbs").rglob("*.qmd"))]


def commands(path):
    "The lines of a page's shell blocks, without comments"
    blocks = re.findall(r"^```sh\n(.*?)^```", re.sub(r" \\\n\s*", " ", path.read_text()), re.M | re.S)   # a line may go on behind a backslash
    lines = [re.sub(r"\s+#.*", "", line) for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def targets():
    "Makefile target -> its recipe"
    return {m[1]: m[2] for m in re.finditer(r"^([a-z-]+):[^\n]*\n((?:\t[^\n]*\n)*)", (ROOT / "Makefile").read_text(), re.M)}


def cli_command(line):
    "The click command that a `pivad ...` line calls, and its remaining words"
    from pivad.cli import cli
    command, words = cli, shlex.split(line)[1:]
    while isinstance(command, click.Group):
        command, words = command.commands[words[0]], words[1:]
    return command, words


def options_of(command):
    "The options a command takes, those it makes from a dataclass included"
    return {o for p in command.get_params(click.Context(command)) for o in (*p.opts, *p.secondary_opts)}


def calls_in_tests():
    "Command -> options with which tests/ call it, from the calls `pivad(...)` and the lists of words in them"
    calls = {}
    for path in (ROOT / "tests").glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            words = node.args if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("pivad", "invoke") else node.elts if isinstance(node, ast.List) else []
            text = [w.value for w in words if isinstance(w, ast.Constant) and isinstance(w.value, str)]
            if text:
                calls.setdefault(text[0], set()).update(w for w in text if w.startswith("-"))
                if any(isinstance(w, ast.Starred) for w in words):   # *data: the dataset and its features
                    calls[text[0]] |= {"--dataset", "--features"}
    return calls


def test_readme_commands_are_tested_ones():
    "make targets exist, extras exist, notebooks exist, and the tests call each pivad command with the README's options"
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    extras = {k.removesuffix("_requirements") for k in config["DEFAULT"] if k.endswith("_requirements")}
    tested, seen = calls_in_tests(), []
    for line in commands(ROOT / "README.md"):
        for part in line.split("&&"):
            words = shlex.split(part)
            seen.append(words[0])
            if words[0] == "make":
                assert words[1] in targets()
            elif words[:2] == ["pip", "install"]:
                assert set(re.findall(r"\[(\w+)\]", part)) <= extras
            elif words[0] == "papermill":
                assert (ROOT / words[1]).is_file() and any(words[1] in r or Path(words[1]).stem in t.read_text() for r in targets().values() for t in (ROOT / "tests").glob("test_*.py"))
            elif words[0] == "pivad":
                options = {w.partition("=")[0] for w in words if w.startswith("-")}
                assert words[1] in tested and options <= tested[words[1]], f"no test runs: {part}"
            else:
                assert words[0] in ("git", "cd"), f"a command that no test knows: {part}"
    assert {"make", "pivad"} <= set(seen)
    assert "make test" in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_commands_exist(path):
    "Every pivad and make command on a page is one, with options that it has"
    for line in commands(path):
        for part in re.split(r"&&|;|\bdo\b|& done", line):
            words = part.split()
            if words[:1] == ["make"]:
                assert words[1] in targets(), line
            part = re.sub(r"^.*-m pivad\.cli|^(\w+=\S+ )+pivad", "pivad", part.strip())
            if part.startswith("pivad "):
                command, rest = cli_command(part)
                known = options_of(command)
                assert {w.partition("=")[0] for w in rest if re.match(r"--?[a-z]", w)} <= known, line


def test_inline_commands_exist():
    "So is every `pivad ...` in running text"
    for path in [*PAGES, ROOT / "nbs/experiments/_index.md"]:
        for code in re.findall(r"`(pivad [a-z][^`]*)`", path.read_text()):
            command, rest = cli_command(code.replace("...", ""))
            known = options_of(command)
            assert {w.partition("=")[0] for w in rest if re.match(r"--[a-z]", w)} <= known, f"{path.name}: {code}"


# ---- the rest

def test_ruff():
    run = subprocess.run([sys.executable, "-m", "ruff", "check", "--output-format", "concise"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr


def test_workflows_call_make():
    "Workflows run make targets that exist, actions are pinned to a major version, and no registry's host is named"
    files = sorted((ROOT / ".github/workflows").glob("*.yml"))
    steps = [s for f in files for job in yaml.safe_load(f.read_text())["jobs"].values() for s in job["steps"]]
    runs = [s["run"] for s in steps if "run" in s]
    assert {"make test", "make docs"} <= set(runs) and {r.split()[1] for r in runs} <= set(targets())
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+", s["uses"]) for s in steps if "uses" in s)
    assert not re.search(r"https?://", "".join(f.read_text() for f in files))


def test_hooks_are_local():
    "Hooks run this repository's own tools"
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert {r["repo"] for r in repos} == {"local"}
    assert {h["entry"].split()[0].removeprefix(".venv/bin/") for r in repos for h in r["hooks"]} == {"nbdev-clean", "nbdev-export", "python", "ruff"}


def test_figure_is_true():
    "The shapes drawn on the arrows of nbs/images/pivad.png are those of the model"
    from PIL import Image
    drawn = json.loads(Image.open(figure.PATH).text["shapes"])
    assert {k: tuple(v) for k, v in drawn.items()} == figure.shapes(), "run python docs/figure.py"
