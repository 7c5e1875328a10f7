"""The documentation site, from _quarto.yml and nbs/: `python docs/build.py` writes _docs/.

Notebooks are rendered with the outputs they carry, none is run. They are staged in _proc/ first (export marks dropped, figures as files
with alternative text, executed experiments from results/ in place of the unexecuted ones, a reference page for every module), then
rendered by quarto where it is installed and by smalldocs otherwise. The site asks nothing of other hosts: KaTeX comes from a package.
"""
import argparse
import ast
import base64
import html
import importlib
import inspect
import io
import json
import os
import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import nbformat
import yaml

ROOT = Path(__file__).parent.parent
NBS = ROOT / "nbs"
DIRECTIVE = re.compile(r"^#\|\s*(export\w*|default_exp|hide\w*|eval)\b")
KATEX = {"package": "djangocms-katex", "version": "1.0.2", "folder": "vendor/katex/",   # a wheel that carries all of KaTeX 0.16.40, MIT
         "sha256": "79774fa17f7d328252f6dd05688799fa7ee49abebb7cbe09f0cbf6f103352ac2"}


# ---- notebooks

def first_line(nb):
    "Title, one-sentence description and the rest of the first cell"
    head, _, rest = nb.cells[0].source.strip().partition("\n")
    quote = re.match(r"\s*((?:>.*\n?)+)", rest)
    text = " ".join(line.lstrip("> ") for line in quote[1].splitlines()) if quote else ""
    return head.lstrip("# ").strip(), text.strip(), rest[quote.end():].strip() if quote else rest.strip()


def plain(text):
    "Markdown without its markup, on one line"
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"^\s*[>#|*-]+", "", text, flags=re.M))
    return re.sub(r"\s+", " ", re.sub(r"[*`$\\{}]", "", text)).strip()


def sentence(text):
    "The first sentence of some prose"
    return re.split(r"(?<=[.:!?])\s", plain(text), maxsplit=1)[0].rstrip(":")


def directives(source):
    "A cell's `#|` lines and its code"
    lines = source.split("\n")
    n = next((i for i, line in enumerate(lines) if not line.startswith("#|")), len(lines))
    return lines[:n], "\n".join(lines[n:]).strip("\n")


def defined(code):
    "The names a cell defines at its top level"
    try:
        body = ast.parse(code).body
    except SyntaxError:   # magics
        return []
    names = [[n.name] if isinstance(n, (ast.FunctionDef, ast.ClassDef)) else
             [t.id for t in getattr(n, "targets", [getattr(n, "target", None)]) if isinstance(t, ast.Name)]
             for n in body if isinstance(n, (ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign))]
    return sum(names, [])


def picture(data, path, alt):
    "Write a figure as lossless WebP and return the HTML that shows it"
    from PIL import Image
    image = Image.open(io.BytesIO(data))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "WEBP", lossless=image.format == "PNG", quality=90, method=4)
    width, height = image.size
    return f'<img src="{path.parent.name}/{path.name}" alt="{html.escape(alt)}" width="{width}" height="{height}" loading="lazy" class="img-fluid figure-img">'


def stage_notebook(path, dst, links):
    "Write the notebook at `path` to `dst` as a page; `links` gets name -> anchor for what its cells export. Returns title and description"
    nb = nbformat.read(path, 4)
    title, about, rest = first_line(nb)
    number = re.match(r"\d+", dst.name)
    title = f"{number[0]} {title}" if number else title
    front = yaml.safe_dump({"title": title, "description": about}, allow_unicode=True, width=1000)
    cells, heading, prose, exported = [nbformat.v4.new_raw_cell(f"---\n{front}---")], title, about, "pivad" if number else None
    if rest:
        cells.append(nbformat.v4.new_markdown_cell(rest))
    for n, cell in enumerate(nb.cells[1:], 1):
        if cell.cell_type == "markdown":
            if cell.source.startswith("#"):
                heading, prose = sentence(cell.source.splitlines()[0]), ""
            else:
                prose = sentence(cell.source) or prose
            cell.source = local_links(cell.source, dst)
        elif cell.cell_type == "code":
            lines, code = directives(cell.source)
            marks = [m[1] for line in lines if (m := DIRECTIVE.match(line))]
            if "hide" in marks or not code.strip():
                continue
            keep = [line for line in lines if not DIRECTIVE.match(line)]
            option = {m[1]: m[2] for line in keep if (m := re.match(r"#\|\s*([\w-]+):\s*(.*)", line))}
            if exported and any(m.startswith("export") for m in marks) and (names := defined(code)):
                keep.insert(0, f"#| label: def-{names[0]}")
                links.update({(path.stem.partition("_")[2], name): f"{dst.name}#def-{names[0]}" for name in names})
            cell.source = "\n".join([*keep, code])
            alt = option.get("fig-alt") or f"Figure: {heading}. {prose}".strip()
            for k, out in enumerate(cell.outputs):
                for kind in ("image/png", "image/jpeg"):
                    if kind in out.get("data", {}):
                        file = dst.with_suffix("").with_name(dst.stem + "_files") / f"{n}-{k}.webp"
                        out.data = {"text/html": picture(base64.b64decode(out.data[kind]), file, alt)}
                if "text/markdown" in out.get("data", {}):
                    out.data["text/markdown"] = local_links(out.data["text/markdown"], dst)
        cells.append(cell)
    nb.cells = cells
    nb.metadata = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    dst.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, dst)
    return title, about


def local_links(text, dst):
    "Links to files above nbs/ go to copies of them under files/; executed notebooks in results/ to their pages"
    proc = next(p for p in dst.parents if (p / ".stage").exists())
    at = NBS / dst.relative_to(proc).parent

    def fix(m):
        href, tail = re.match(r"([^#]*)(#.*)?", m[2]).groups()
        target = Path(os.path.normpath(at / href))
        if not href or re.match(r"\w+:|/", href) or target.is_relative_to(NBS) or not target.is_file():
            return m[0]
        if target.suffix == ".ipynb":
            return f"{m[1]}(/experiments/{experiment_of(target)}{tail or ''})"
        if target.name in PAGES:
            return f"{m[1]}(/{PAGES[target.name]})"
        copy = proc / "files" / target.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(target, copy)
        return f"{m[1]}(/files/{target.relative_to(ROOT).as_posix()})"

    return re.sub(r"(\[[^\]]*\])\(([^)\s]+)\)", fix, text)


# ---- experiments

PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "README.md": "index.ipynb"}


def executed():
    "Executed notebooks in results/, by the experiment they are a run of: name -> [paths], the plainest name first"
    names = [p.stem for p in (NBS / "experiments").glob("*.ipynb")]
    runs = {name: sorted((ROOT / "results").glob(f"{name}*.ipynb"), key=lambda p: (len(p.stem), p.stem)) for name in names}
    return {name: [p for p in ps if max((n for n in names if p.stem.startswith(n)), key=len) == name] for name, ps in runs.items()}


def experiment_of(path):
    "The page on which an executed notebook is shown"
    for name, paths in executed().items():
        if path in paths:
            return f"{name}.ipynb" if path == paths[0] else path.name
    return path.name


def is_run(path):
    "Whether a notebook carries outputs"
    return any(c.cell_type == "code" and c.outputs for c in nbformat.read(path, 4).cells)


def stage_experiments(proc, order):
    "One page an experiment, executed where an execution is kept, and an index of them"
    rows, runs = [], executed()
    for path in sorted((NBS / "experiments").glob("*.ipynb"), key=lambda p: order.index(p.stem) if p.stem in order else 99):
        done = runs[path.stem]
        title, about = stage_notebook(done[0] if done else path, proc / "experiments" / path.name, {})
        extra = [(p, *stage_notebook(p, proc / "experiments" / p.name, {})) for p in done[1:]]
        state = "executed" if done or is_run(path) else "not run yet"
        others = "".join(f", [{p.stem.removeprefix(path.stem).strip('-_')}]({p.name})" for p, *_ in extra)
        rows.append(f"| [{title}]({path.name}) | {about} | {state}{others} |")
        if state != "executed":
            note = f"::: {{.callout-note}}\nNot run yet: text and code only. To run it: `pivad rerun {path.stem} --dataset simcctv`.\n:::"
            insert_after_front(proc / "experiments" / path.name, note)
    page = ["---", "title: Experiments", "description: Every table and figure of the paper as a parameterised notebook; executed ones with their results.", "---", "",
            (NBS / "experiments" / "_index.md").read_text(), "", "| experiment | what it asks | state |", "|---|---|---|", *rows]
    (proc / "experiments" / "index.qmd").write_text("\n".join(page) + "\n")


def insert_after_front(path, text):
    "Put a Markdown cell behind the front matter of a staged notebook"
    nb = nbformat.read(path, 4)
    nb.cells.insert(1, nbformat.v4.new_markdown_cell(text))
    nbformat.write(nb, path)


# ---- reference

def safe(text):
    "Docstrings and comments are plain text, not Markdown"
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([\\*_<>$\[\]~^#])", r"\\\1", p) for p in parts)


def short(value, width=100):
    "A constant's value, cut"
    text = re.sub(r" at 0x[0-9a-f]+", "", " ".join(repr(value).split()))
    return text if len(text) <= width else text[:width] + " ..."


def entry(name, obj, mod, link, level=2):
    "The Markdown of one public name: signature, docstring, parameters, and where it is defined"
    from click import Context   # its parameters include those a command makes, such as train's from TrainConfig
    from smalldocs import api
    obj = api.unwrapped(obj)
    source = [f"[defined in {link.split('#')[0].removeprefix('../').removesuffix('.ipynb')}]({link}){{.source-link}}", ""] if link else []
    head = [f"{'#' * level} {safe(name)} {{#{name}}}", "", *source]
    if not (inspect.isfunction(obj) or inspect.isclass(obj)):
        return [*head, f"```python\n{name} = {short(obj)}\n```", ""]
    text = [safe(api.doc(obj)) if "__doc__" in vars(obj) or inspect.isfunction(obj) else "", ""]
    if (command := api.command_of(obj, mod)) and not inspect.isclass(obj):
        return [*head, f"Command: `{command_path(command)}`", "", *text, api.options_table(SimpleNamespace(params=command.get_params(Context(command)))), ""]
    call = [] if inspect.isclass(obj) and not api.has_init(obj) else [f"```python\n{wrapped(name, api.signature(obj, mod))}\n```", ""]
    lines = [*head, *call, *text, *([safe_table(obj, mod), ""] if call and (level == 2 or any(c for _, _, c in parameters(obj).values())) else [])]
    for m in api.methods(obj) if inspect.isclass(obj) else []:
        lines += entry(f"{name}.{m.__name__}", m, mod, None, level + 1)
    return lines


def command_path(command):
    "`pivad dataset build` for that command"
    def find(group, path):
        for name, sub in getattr(group, "commands", {}).items():
            if sub is command:
                return f"{path} {name}"
            if found := find(sub, f"{path} {name}"):
                return found
    from pivad.cli import cli
    return "pivad" if command is cli else find(cli, "pivad")


def wrapped(name, signature, width=92):
    "A signature, a parameter a line if it is long"
    one = name + signature
    if len(one) <= width:
        return one
    inside, _, after = signature[1:].rpartition(")")
    depth, parts, cur = 0, [], ""
    for c in inside:
        depth += (c in "([{") - (c in ")]}")
        if c == "," and depth == 0:
            parts.append(cur.strip())
            cur = ""
        else:
            cur += c
    return name + "(\n" + "".join(f"    {p},\n" for p in [*parts, cur.strip()] if p) + ")" + after


def parameters(obj):
    "name -> (annotation, default, comment) of a function's or class's own parameters, `*args` and `**options` included, and `return`"
    from smalldocs import api
    if inspect.isclass(obj) and not api.has_init(obj):
        return {}
    source = inspect.getsource(obj)
    stars = dict(re.findall(r"^\s*\*{1,2}(\w+)[^#\n]*#\s*(.+)$", source, re.M))   # fastcore reads no comment beside **options
    return {n: (d.anno, d.default, d.docment or stars.get(n, "")) for n, d in api.safe_docments(obj).items() if n not in ("self", "cls")}


def safe_table(obj, mod):
    "Parameters: type, default, description"
    from smalldocs import api
    rows, none = [], inspect.Parameter.empty
    for name, (kind, default, said) in parameters(obj).items():
        kind = "" if kind in (none, None, type(None)) else f"`{api.type_text(kind, mod)}`"
        shown = "" if default is none else api.default_text(default) if inspect.isfunction(default) else short(default, 40)
        if name != "return" or kind or said:
            rows.append(["returns" if name == "return" else f"`{name}`", kind, f"`{shown}`" if shown and name != "return" else "", safe(said)])
    if not any(any(r[1:]) for r in rows):   # the signature has said it all
        return ""
    return api.table(rows, ["Parameter", "Type", "Default", "Description"])


def stage_reference(proc, links):
    "A page a module with every name of its `__all__`, an index of them, and the names that code in prose links to"
    (proc / "api").mkdir()
    symbols, rows, pages = {}, [], []
    for path in sorted(NBS.glob("[0-9]*_*.ipynb")):
        name = path.stem.partition("_")[2]
        if not (ROOT / "pivad" / f"{name}.py").exists():
            continue
        mod = importlib.import_module(f"pivad.{name}")
        about = inspect.getdoc(mod) or ""
        text = ["---", f"title: pivad.{name}", f"description: {json.dumps(about, ensure_ascii=False)}", "---", "",
                f"Made by the notebook [{path.stem}](../{path.name}), which explains every line.", ""]
        for public in mod.__all__:
            link = links.get((name, public))
            text += entry(public, getattr(mod, public), mod, link and f"../{link}")
            target = f"/api/{name}.qmd#{public}"
            symbols[f"{name}.{public}"] = symbols[f"pivad.{name}.{public}"] = target
            if re.search(r"[A-Z_]", public):   # a plain word such as `light` is more often something else
                symbols[public] = None if public in symbols else target
        (proc / "api" / f"{name}.qmd").write_text("\n".join(text) + "\n")
        pages.append({"text": f"pivad.{name}", "href": f"api/{name}.qmd"})
        rows.append(f"| [pivad.{name}]({name}.qmd) | {safe(about)} | {len(mod.__all__)} |")
    (proc / "_symbols.json").write_text(json.dumps({k: v for k, v in symbols.items() if v}))
    (proc / "api" / "index.qmd").write_text("\n".join([
        "---", "title: API reference", "description: Every public name, with its parameters and a link to the notebook cell that defines it.", "---", "",
        "| module | what it is | names |", "|---|---|---|", *rows]) + "\n")
    return pages


# ---- the site

def walk(contents, visit):
    "A sidebar's contents with `visit` applied to every page"
    return [{**c, "contents": walk(c["contents"], visit)} if isinstance(c, dict) and "contents" in c else visit(c) for c in contents]


def stage(proc):
    "Everything that is rendered, in `proc`"
    shutil.rmtree(proc, ignore_errors=True)
    proc.mkdir(parents=True)
    (proc / ".stage").touch()
    config = yaml.safe_load((ROOT / "_quarto.yml").read_text())
    sidebar = config["website"]["sidebar"]["contents"]
    order = re.findall(r"experiments/(\w+)\.ipynb", json.dumps(sidebar))
    links, titles = {}, {}
    for path in sorted(NBS.glob("*.ipynb")):
        titles[path.name] = stage_notebook(path, proc / path.name, links)
    stage_experiments(proc, order)
    for path in [p for p in NBS.rglob("*") if p.suffix in (".qmd", ".md", ".svg", ".png", ".webp") and not p.name.startswith("_") and "checkpoints" not in str(p)]:
        dst = proc / path.relative_to(NBS)
        dst.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, dst)
        if path.suffix in (".qmd", ".md"):
            text = path.read_text().replace("<!-- notebooks -->", notebook_table(sidebar, titles))
            dst.write_text(local_links(text, dst))
    for name, page in PAGES.items():
        if page.endswith(".md"):
            (proc / page).write_text((ROOT / name).read_text().replace("](nbs/", "]("))
    api = stage_reference(proc, links)
    visit = lambda c: {"text": titles[c][0], "href": c} if isinstance(c, str) and re.match(r"\d", c) else c   # noqa: E731
    config["website"]["sidebar"]["contents"] = walk(sidebar, visit)
    for c in config["website"]["sidebar"]["contents"]:
        if isinstance(c, dict) and c.get("href") == "api/index.qmd":
            c["contents"] = api
    config["project"] |= {"output-dir": "_site", "resources": ["**/*_files/*", "files/**"]}
    shutil.copy(Path(__file__).parent / "style.css", proc / "style.css")
    return config


def notebook_table(sidebar, titles):
    "The numbered notebooks in the sidebar's order, a table a section"
    out = []
    for section in [c for c in sidebar if isinstance(c, dict) and re.match(r"\d", str((c.get("contents") or [""])[0]))]:
        out += [f"## {section['section']}", "", "| notebook | what it is |", "|---|---|",
                *(f"| [{titles[c][0]}]({c}) | {titles[c][1]} |" for c in section["contents"] if c in titles), ""]
    return "\n".join(out)


def render(proc, config):
    "Render `proc` into proc/_site"
    if quarto := shutil.which("quarto"):
        config["format"]["html"]["html-math-method"] = "katex"
        (proc / "_quarto.yml").write_text(yaml.safe_dump(config, allow_unicode=True, sort_keys=False))
        subprocess.run([quarto, "render", str(proc), "--no-execute"], check=True)
        return "quarto", []
    from smalldocs.site import build
    config["smalldocs"] = {"linkify": True}
    (proc / "_quarto.yml").write_text(yaml.safe_dump(config, allow_unicode=True, sort_keys=False))
    return "smalldocs", build(proc, quiet=True).warnings


def katex(folder):
    "KaTeX's files, from a package that carries them, once a user: kept in pivad's cache"
    from pivad.core import cache_dir
    cached = cache_dir() / f"katex-{KATEX['package']}-{KATEX['version']}"
    if not cached.is_dir():
        with tempfile.TemporaryDirectory(dir=cache_dir()) as tmp:
            pinned = Path(tmp) / "requirements.txt"
            pinned.write_text(f"{KATEX['package']}=={KATEX['version']} --hash=sha256:{KATEX['sha256']}\n")
            run = subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--dest", tmp, "-r", str(pinned)],
                                 capture_output=True, text=True)
            if run.returncode:
                sys.exit(f"KaTeX could not be fetched (PyPI {KATEX['package']} {KATEX['version']}): {run.stderr.strip()}")
            new = Path(tmp) / "katex"
            with zipfile.ZipFile(next(Path(tmp).glob("*.whl"))) as wheel:
                for name in wheel.namelist():
                    inside = name.partition(KATEX["folder"])[2]
                    if re.fullmatch(r"katex\.min\.(js|css)|contrib/auto-render\.min\.js|fonts/.*\.woff2", inside):
                        (new / inside).parent.mkdir(parents=True, exist_ok=True)
                        (new / inside).write_bytes(wheel.read(name))
            if not cached.exists():   # another process may have been faster
                os.replace(new, cached)
    shutil.copytree(cached, folder, dirs_exist_ok=True)


def enlarged(m):
    "A picture that leads to itself: on a phone, the way to see its small print"
    return f'<a href="{m[1] or m[2]}" class="figure-link" title="Open the figure alone">{m[0]}</a>'


def finish(site):
    "Nothing from other hosts: KaTeX beside the pages, no font imports; pictures can be opened, numbers stay beside their spread"
    katex(site / "site_libs" / "katex")
    for path in site.rglob("*.html"):
        up = posixpath.relpath("site_libs/katex", path.relative_to(site).parent.as_posix())
        text = re.sub(r"https://cdn\.jsdelivr\.net/npm/katex@[^/\"']+/dist", up, path.read_text())
        text = re.sub(r"(?<=\d) ± (?=\d)", "\u00a0±\u00a0", text)    # a number and its spread on one line
        path.write_text(re.sub(r'<img\b[^>]*\bsrc="([^"]+)"[^>]*\bfigure-img\b[^>]*>|<img\b[^>]*\bfigure-img\b[^>]*\bsrc="([^"]+)"[^>]*>', enlarged, text))
    for path in site.rglob("*.css"):
        text = path.read_text()
        path.write_text(re.sub(r"@import\s+url\([\"']?https?://[^)]*\);?", "", text))
    (site / ".nojekyll").touch()


def build(out=ROOT / "_docs", proc=ROOT / "_proc"):
    "Build the site into `out`; returns the renderer's warnings"
    out, proc = Path(out).resolve(), Path(proc).resolve()
    by, warnings = render(proc, stage(proc))
    finish(proc / "_site")
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(proc / "_site", out)
    print(f"{len(list(out.rglob('*.html')))} pages by {by}: {out.relative_to(Path.cwd()) if out.is_relative_to(Path.cwd()) else out}")
    return warnings


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=ROOT / "_docs", help="folder of the site (_docs)")
    parser.add_argument("--proc", default=ROOT / "_proc", help="folder for what is rendered (_proc)")
    args = parser.parse_args()
    found = build(args.out, args.proc)
    sys.exit("\n".join(found) or 0)
