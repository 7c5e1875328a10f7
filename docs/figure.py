"""The pictures of the README: `python docs/figure.py` writes them to nbs/images/.

pivad.png is π-VAD in one figure, with the shapes of a model that was run; first_run.png is a figure of an executed notebook in results/.
"""
import base64
import io
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

PATH = Path(__file__).parent.parent / "nbs" / "images" / "pivad.png"
RUNS, TRAINS, INK, PALE = "#0173b2", "#c25e00", "#1f2328", {"#0173b2": "#e3f0f8", "#c25e00": "#fcefe0", "#1f2328": "#f3f4f6"}   # inference, training only
T = 200


def shapes():
    "Name -> shape without the batch, from one run of the paper's preset in train mode"
    import torch

    from pivad.model import build_pivad

    torch.manual_seed(0)
    model, seen = build_pivad("paper").train(), {}
    inductor = model.inductors["early"]

    def keep(name, module, get=lambda i, o: o):
        module.register_forward_hook(lambda m, i, o: seen.__setitem__(name, tuple(get(i, o).shape[1:])))

    with torch.no_grad():
        for name, stage in model.stages().items():
            keep(f"stage {name}", stage)
        for name, pi in model.inductors.items():
            keep(f"inductor {name}", pi, lambda i, o: o.features)
        keep("latent", inductor.pmg.encode, lambda i, o: o.transpose(1, 2))
        keep("fused", inductor.cmi.blocks[0], lambda i, o: i[0])
        keep("shared rgb", inductor.cmi.rgb_to_shared)
        for k, project in inductor.cmi.to_shared.items():
            keep(f"pseudo {k}", project, lambda i, o: i[0])
            keep(f"shared {k}", project)
        x = torch.rand(2, T, 1024)
        seen["scores"] = tuple(model(x).scores.shape[1:])
        seen["rgb"] = tuple(x.shape[1:])
    return seen


def text(shape):
    "(T, 512) for (200, 512)"
    return "(" + ", ".join(["T" if n == T else f"{n:,}".replace(",", "") for n in shape]) + ("," if len(shape) == 1 else "") + ")"


class Canvas:
    "Boxes and arrows in units of 1 % of the width"
    def __init__(self, width=8.8, height=5.55):
        self.fig = plt.figure(figsize=(width, height))
        self.ax = self.fig.add_axes((0, 0, 1, 1))
        self.ax.set(xlim=(0, 100), ylim=(0, 100 * height / width))
        self.ax.axis("off")

    def box(self, x, y, w, h, label, colour=RUNS, size=10.5, dashed=False, bold=False):
        "A box around (x, y); returns its left, right, bottom and top"
        self.ax.add_patch(FancyBboxPatch((x - w/2, y - h/2), w, h, boxstyle="round,pad=0,rounding_size=.8", fc=PALE[colour], ec=colour, lw=1.4, ls="--" if dashed else "-", zorder=3))
        self.ax.text(x, y, label, ha="center", va="center", size=size, color=INK, zorder=4, weight="bold" if bold else "normal", linespacing=1.25)
        return x - w/2, x + w/2, y - h/2, y + h/2

    def arrow(self, a, b, label="", colour=RUNS, dashed=False, at=None, size=9, ha="center", rad=0., both=False):
        "An arrow from a to b with a label above its middle, or at `at`"
        self.ax.add_patch(FancyArrowPatch(a, b, arrowstyle="<|-|>" if both else "-|>", mutation_scale=11, color=colour, lw=1.4, ls=(0, (4, 2)) if dashed else "-",
                                          connectionstyle=f"arc3,rad={rad}", shrinkA=0, shrinkB=0, zorder=2))
        x, y = at or ((a[0] + b[0])/2, (a[1] + b[1])/2 + 1.1)
        self.ax.text(x, y, label, ha=ha, va="bottom", size=size, color=colour, zorder=5, linespacing=1.1)

    def note(self, x, y, label, colour=INK, size=10, **kw):
        self.ax.text(x, y, label, **{"ha": "center", "va": "center", "size": size, "color": colour, "zorder": 5} | kw)


def draw(s):
    "The figure for the shapes `s`"
    c = Canvas()
    sh = {k: text(v) for k, v in s.items()}

    # the backbone, left to right
    y = 52
    c.note(1, 60.6, "π-VAD at inference: RGB alone", RUNS, 12, ha="left", weight="bold")
    for i in range(4):
        c.box(4.2 + .8*i, y + .7*i - 1, 5.2, 4.6, "", INK)
    c.note(6.6, y + 1.1, "T × 16\nframes", size=8.4)
    names = ["I3D", "temporal\nembedding", "inductor\n“early”", "self-\nattention", "inductor\n“late”", "memories,\nclassifier"]
    xs = [14.6, 27.9, 42.4, 56.2, 70, 84.3]
    widths = [4.4, 9.4, 8.4, 8, 8.4, 9]
    edges = [c.box(x, y, w, 6.4, n, RUNS, 9.2, bold="inductor" in n) for x, w, n in zip(xs, widths, names, strict=True)]
    labels = [sh["rgb"], sh["stage early"], sh["inductor early"], sh["stage late"], sh["inductor late"]]
    c.arrow((9.8, y), (edges[0][0], y))
    for (left, right), label in zip(zip(edges, edges[1:], strict=False), labels, strict=True):
        c.arrow((left[1], y), (right[0], y), label, size=7.8)
    c.arrow((edges[-1][1], y), (92, y), sh["scores"], size=7.8)
    t = np.linspace(0, 1, 80)
    score = .12 + .8/(1 + np.exp(-(t - .45)*40)) - .75/(1 + np.exp(-(t - .75)*40)) + .03*np.sin(30*t)
    c.ax.fill_between([92.6 + 6.6*.45, 92.6 + 6.6*.75], y - 3, y + 3, color=TRAINS, alpha=.15, lw=0)
    c.ax.plot(92.6 + 6.6*t, y - 3 + 6*score, color=RUNS, lw=1.6)
    c.note(95.9, y - 4.8, "scores", size=9)

    # inside an inductor
    x0, x1, y0, y1 = 1, 71.6, 1.6, 42.4
    c.ax.add_patch(FancyBboxPatch((x0, y0), x1 - x0, y1 - y0, boxstyle="round,pad=0,rounding_size=1.2", fc="#fafbfc", ec=RUNS, lw=1, zorder=0))
    for x, to in ((edges[2][0], x0 + 1), (edges[2][1], x1 - 1)):
        c.ax.plot([x, to], [edges[2][2], y1], color=RUNS, lw=.8, alpha=.6, zorder=1)
    c.note(x0 + 1.4, y1 - 2, "Inside an inductor", RUNS, 12, ha="left", weight="bold")
    c.note(31.5, y1 - 2, "PMG: generate (§4.2)", size=9.6)
    c.note(57, y1 - 2, "CMI: align, fuse (§4.3)", size=9.6)
    mid = 21.6
    c.note(4.6, mid + 5.2, "$\\mathcal{F}^*$", size=14)
    c.arrow((2.2, mid), (8, mid), sh["stage early"], size=8.2)
    enc = c.box(11.4, mid, 6.8, 7, "conv", RUNS)
    kinds = ["pose", "depth", "panoptic", "flow", "text"]
    for k, yy in zip(kinds, np.linspace(35.2, 8, 5), strict=True):
        b = c.box(26, yy, 9.4, 4.2, k, RUNS, 10)
        c.arrow((enc[1], mid), (b[0], yy), "", rad=0)
        p = c.box(44.6, yy, 6.4, 4.2, "linear", RUNS, 9)
        c.arrow((b[1], yy), (p[0], yy), f"$\\hat e$  {sh[f'pseudo {k}']}", size=8.2, at=((b[1] + p[0])/2, yy + .7))
        c.arrow((p[1], yy), (52.6, mid + (yy - mid)*.3), "")
    c.note(11.4, mid - 5, sh["latent"], RUNS, 8.2)
    fuse = c.box(56.8, mid, 8.4, 11, "concat\n\ntransformer\n+ RGB\ntransformer", RUNS, 8.2)
    c.note(50, mid + 12.2, f"{sh['shared pose']} each", RUNS, 8.2, ha="left")
    c.note(56.8, mid - 7, sh["fused"], RUNS, 8.2)
    c.arrow((fuse[1], mid), (70.8, mid), sh["inductor early"], size=8.2, at=(65.9, mid + .9))
    c.note(65.9, mid + 5.4, "$\\mathcal{F}^*_M$", size=14)
    for x, yy, loss in ((36, 3.9, "PMG"), (50.4, 3.9, "align"), (65.9, mid - 5, "distill")):
        c.ax.add_patch(FancyBboxPatch((x - 3.4, yy - 1.6), 6.8, 3.2, boxstyle="round,pad=0,rounding_size=.8", fc=PALE[TRAINS], ec=TRAINS, lw=1, ls="--", zorder=3))
        c.note(x, yy, f"$\\mathcal{{L}}_{{{loss}}}$", TRAINS, 10)
    for (x, yy), to in (((36, 5.5), (36, 7.2)), ((50.4, 5.5), (50.4, 11.6)), ((65.9, mid - 3.4), (65.9, mid - .6))):
        c.ax.plot([x, to[0]], [yy, to[1]], color=TRAINS, lw=1.2, ls=(0, (3, 2)), zorder=2)

    # training only
    c.note(73.8, y1 - .6, "In training only", TRAINS, 12, ha="left", weight="bold")
    rows = [("PMG", "Eq. 1: each $\\hat e$ towards what\nits encoder saw"), ("align", f"Eq. 2, 3: each near RGB,\nboth projected to {sh['shared rgb']}"),
            ("distill", f"Eq. 4: $\\mathcal{{F}}^*_M$ towards the\nfrozen teacher's {sh['stage early']}"), ("MIL", "on the scores: one bit\na video, anomalous or not")]
    for (loss, what), yy in zip(rows, np.linspace(35.4, 9.6, 4), strict=True):
        c.ax.add_patch(FancyBboxPatch((73.6, yy - 3.6), 25.6, 7.2, boxstyle="round,pad=0,rounding_size=.8", fc=PALE[TRAINS], ec=TRAINS, lw=1.2, ls="--", zorder=3))
        c.note(77.2, yy, f"$\\mathcal{{L}}_{{{loss}}}$", TRAINS, 12)
        c.note(80.4, yy, what, size=8.4, ha="left", linespacing=1.3)
    c.note(73.8, 3.4, "Teacher: the backbone, trained first.", TRAINS, 8.4, ha="left")
    return c.fig


def result(notebook=PATH.parents[2] / "results" / "first_run-surveillance_fights.ipynb", makes="score_plot("):
    "The picture that the cell which `makes` it left in an executed notebook, as bytes"
    import nbformat

    cells = [c for c in nbformat.read(notebook, 4).cells if c.cell_type == "code" and makes in c.source]
    return next(base64.b64decode(o.data["image/png"]) for c in cells for o in c.outputs if "image/png" in o.get("data", {}))


if __name__ == "__main__":
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    plt.rcParams["font.family"] = "DejaVu Sans"
    PATH.parent.mkdir(exist_ok=True)
    s = shapes()
    draw(s).savefig(PATH, dpi=200, facecolor="white")
    info = PngInfo()
    info.add_text("shapes", json.dumps(s))   # by which a test sees that the figure is still true
    Image.open(PATH).convert("RGB").quantize(128).save(PATH, optimize=True, pnginfo=info)
    print(f"{PATH}: {PATH.stat().st_size//1024} kB")
    Image.open(io.BytesIO(result())).convert("RGB").quantize(64).save(PATH.with_name("first_run.png"), optimize=True)
