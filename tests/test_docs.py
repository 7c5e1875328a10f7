"""The documentation site builds from a checkout, and every page of it works in a browser: Chromium, headless."""
import functools
import re
import shutil
import subprocess
import sys
import threading
from collections import defaultdict
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from conftest import ROOT

LIMIT = 2_000_000   # bytes of a page with everything it loads, videos apart
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "The built site; the builder fails on a link that leads nowhere"
    tmp = tmp_path_factory.mktemp("docs")
    run = subprocess.run([sys.executable, "docs/build.py", "--out", str(tmp / "site"), "--proc", str(tmp / "proc")],
                         cwd=ROOT, timeout=300, capture_output=True, text=True)
    if "KaTeX could not be fetched" in run.stderr:
        pytest.skip("needs KaTeX from PyPI once, and it could not be fetched")
    assert run.returncode == 0, run.stdout + run.stderr
    return tmp / "site"


@pytest.fixture(scope="module")
def pages(site):
    return sorted(site.rglob("*.html"))


class Links(HTMLParser):
    "A page's links, ids, images and scripts"
    def __init__(self, text):
        super().__init__()
        self.links, self.ids, self.images, self.outside = [], set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs["id"]} if attrs.get("id") else set()
        if tag == "a" and attrs.get("href"):
            self.links.append(attrs["href"])
        if tag == "img":
            self.images.append((attrs.get("src", ""), attrs.get("alt")))
        source = attrs.get("src") or (attrs.get("href") if tag == "link" else None)
        if source and re.match(r"(https?:)?//", source):
            self.outside.append(source)


@pytest.fixture(scope="module")
def parsed(pages):
    return {p: Links(p.read_text()) for p in pages}


def test_pages(site, pages):
    "Home, the parts of the site, every notebook and a reference page for every module"
    names = {p.relative_to(site).as_posix() for p in pages}
    want = ["index", "read", "run/index", "experiments/index", "api/index", "faq", "glossary", "contributing", "changelog"]
    want += [p.stem for p in (ROOT / "nbs").glob("*.ipynb")] + [f"experiments/{p.stem}" for p in (ROOT / "nbs" / "experiments").glob("*.ipynb")]
    want += [f"api/{p.stem}" for p in (ROOT / "pivad").glob("[a-z]*.py")]
    assert not {f"{w}.html" for w in want} - names


def test_notebooks_are_in_the_sidebar():
    sidebar = (ROOT / "_quarto.yml").read_text()
    missing = [p.name for p in (ROOT / "nbs").rglob("*.ipynb") if p.relative_to(ROOT / "nbs").as_posix() not in sidebar and "checkpoint" not in str(p)]
    assert not missing, f"add to _quarto.yml: {missing}"


def test_executed_experiments_take_their_place(site):
    "results/first_run-*.ipynb is shown on the page of first_run; what was never run says so"
    assert "cell-output" in (site / "experiments" / "first_run.html").read_text()
    assert "Not run yet" not in (site / "experiments" / "first_run.html").read_text()
    for path in sorted((ROOT / "nbs/experiments").glob("*.ipynb")):
        runs = [p for p in (ROOT / "results").glob(f"{path.stem}*.ipynb")]
        page = (site / "experiments" / f"{path.stem}.html").read_text()
        assert ("Not run yet" in page) != bool(runs or '"outputs": [\n    {' in path.read_text()), path.stem


def test_executed_notebooks_find_their_experiment(tmp_path, monkeypatch):
    "By the longest name that fits; the plainest run first, the others behind it"
    sys.path.insert(0, str(ROOT / "docs"))
    import build
    for name in ("nbs/experiments/sweep.ipynb", "nbs/experiments/sweep_size.ipynb", "results/sweep-simcctv-long.ipynb", "results/sweep-simcctv.ipynb", "results/sweep_size-simcctv.ipynb"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "NBS", tmp_path / "nbs")
    assert {k: [p.stem for p in v] for k, v in build.executed().items()} == {"sweep": ["sweep-simcctv", "sweep-simcctv-long"], "sweep_size": ["sweep_size-simcctv"]}


def test_quarto_where_it_is_installed(tmp_path, monkeypatch):
    "Then quarto renders what was staged, with KaTeX and without running anything"
    sys.path.insert(0, str(ROOT / "docs"))
    import build
    quarto = tmp_path / "bin" / "quarto"
    quarto.parent.mkdir()
    quarto.write_text('#!/bin/sh\necho "$@" > "$2/arguments"\n')
    quarto.chmod(0o755)
    monkeypatch.setenv("PATH", f"{quarto.parent}:/usr/bin:/bin")
    proc = tmp_path / "proc"
    config = build.stage(proc)
    assert build.render(proc, config) == ("quarto", [])
    assert (proc / "arguments").read_text().split() == ["render", str(proc), "--no-execute"]
    written = yaml.safe_load((proc / "_quarto.yml").read_text())
    assert written["format"]["html"]["html-math-method"] == "katex" and written["project"]["output-dir"] == "_site"
    pages = re.findall(r"'href': '([^':]+)'|'([\w/]+\.(?:qmd|ipynb|md))'", str(written["website"]))
    assert len(pages) > 60 and not [p for p in map("".join, pages) if not (proc / p).is_file()]


def test_one_page_leads_to_the_next(site):
    "From 00 to 31 in the order of reading"
    order = re.findall(r"\b(\d\d_\w+)\.ipynb", (ROOT / "_quarto.yml").read_text())
    for here, after in zip(order, order[1:]):
        assert re.search(rf'nav-page-next[^>]*>\s*<a[^>]*href="(\./)?{after}\.html"', (site / f"{here}.html").read_text()), f"{here} -> {after}"


def test_links(site, parsed):
    "Every internal link leads to a page and, after #, to a place in it"
    dead = []
    for page, found in parsed.items():
        for href in found.links:
            parts = urlsplit(href)
            if parts.scheme or href.startswith("//"):
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (parts.fragment and target in parsed and unquote(parts.fragment) not in parsed[target].ids):
                dead.append(f"{page.relative_to(site)}: {href}")
    assert not dead, "\n".join(dead)


def test_images(site, parsed):
    "Every image is there, and says in words what it shows"
    images = [(page, *image) for page, found in parsed.items() for image in found.images]
    assert len(images) > 40
    assert not [f"{page.relative_to(site)}: {src}" for page, src, _ in images if not src.startswith("data:") and not (page.parent / unquote(src)).is_file()]
    assert not [f"{page.relative_to(site)}: {src}" for page, src, alt in images if not alt or len(alt) < 10]


def test_nothing_from_other_hosts(site, parsed):
    assert not {(p.name, o) for p, found in parsed.items() for o in found.outside}
    assert not [p.name for p in site.rglob("*.css") if re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", p.read_text())]


# ---- in a browser

@pytest.fixture(scope="module")
def url(site):
    "The site, served"
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("needs Chromium, and there is none: apt-get install chromium")
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield chromium
        chromium.close()


STATE = """() => ({
    math: [...document.querySelectorAll('.math')].filter(m => !m.querySelector('.katex') || m.querySelector('.katex-error')).map(m => m.textContent),
    equations: document.querySelectorAll('.katex').length,
    wide: document.documentElement.scrollWidth - window.innerWidth,
    bytes: [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')].reduce((n, e) => n + e.encodedBodySize, 0),
    loaded: performance.getEntriesByType('resource').map(e => e.name),
    images: [...document.images].map(i => i.src),
})"""


def test_every_page_in_chromium(site, pages, url, browser):
    "No console error, no failed or outside request, all maths rendered, no page wider than a phone or heavier than 2 MB"
    page = browser.new_page(viewport={"width": 390, "height": 844})
    bad, equations, name = defaultdict(list), 0, None
    page.on("console", lambda m: bad[name].append(f"console: {m.text}") if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: bad[name].append(f"error: {e}"))
    page.on("requestfailed", lambda r: bad[name].append(f"failed: {r.url}") if r.failure != "net::ERR_ABORTED" else None)   # aborted: the next page came first
    page.on("request", lambda r: bad[name].append(f"outside: {r.url}") if not r.url.startswith((url, "data:")) else None)
    page.on("response", lambda r: bad[name].append(f"{r.status}: {r.url}") if r.status >= 400 else None)
    for path in pages:
        name = path.relative_to(site).as_posix()
        page.goto(url + name, wait_until="load", timeout=60_000)
        state = page.evaluate(STATE)
        equations += state["equations"]
        bad[name] += [f"maths not rendered: {m}" for m in state["math"]]
        if state["wide"] > 0:
            bad[name].append(f"{state['wide']} pixels wider than a phone")
        lazy = [i for i in state["images"] if i.startswith(url) and i not in state["loaded"]]
        weight = state["bytes"] + sum((site / unquote(i[len(url):])).stat().st_size for i in lazy)
        if weight > LIMIT:
            bad[name].append(f"{weight/1e6:.2f} MB")
    page.close()
    assert not {k: v for k, v in bad.items() if v}
    assert equations > 40


@pytest.mark.parametrize("query, right", [("PseudoModalityGenerator", {"11_pmg.html", "api/pmg.html"}), ("AUC_A", {"21_evaluation.html", "glossary.html"})])
def test_search(url, browser, query, right):
    "The first thing found is on the page that is about it, and the link leads there"
    page = browser.new_page()
    page.goto(url + "index.html")
    page.locator(".smalldocs-search input, #quarto-search input").first.fill(query)
    page.wait_for_selector(".search-result")
    first = page.locator(".search-result").first
    assert first.get_attribute("href").partition("#")[0].removeprefix("./") in right
    first.click()
    page.wait_for_load_state()
    assert page.url.removeprefix(url).partition("#")[0] in right
    page.close()


CONTRAST = """selectors => {
    const rgb = c => (c.match(/[\\d.]+/g) || []).map(Number).map((v, i) => c.startsWith('color(') && i < 3 ? 255 * v : v);   // color(srgb 0..1)
    const luminance = c => c.slice(0, 3).map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4).reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0);
    const behind = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] > .9) return c; } return [255, 255, 255]; };
    return selectors.flatMap(s => [...document.querySelectorAll(s)].filter(e => e.offsetParent && e.textContent.trim()).slice(0, 40).map(e => {
        const [a, b] = [luminance(rgb(getComputedStyle(e).color)), luminance(behind(e))].sort((x, y) => y - x);
        return [s + ': ' + e.textContent.trim().slice(0, 30), (a + .05) / (b + .05)];
    })).filter(([, ratio]) => ratio < 4.5);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["index.html", "11_pmg.html", "experiments/first_run.html", "api/pmg.html"])
def test_readable(url, browser, scheme, name):
    "Text, links, code, tables and search results stand out from what is behind them (WCAG AA: 4.5 to 1), light and dark"
    page = browser.new_page(color_scheme=scheme)
    page.goto(url + name)
    page.wait_for_timeout(200)
    page.locator(".smalldocs-search input").first.fill("teacher")
    page.wait_for_selector(".search-result")
    found = page.evaluate(CONTRAST, ["main p", "main li", "main a", "main h2", "main td", "main th", "main pre code", "main pre code span", "#quarto-sidebar a", ".navbar a", "#TOC a",
                                     ".search-result-title", ".search-result-text", "figcaption", ".katex"])
    page.close()
    assert not found
