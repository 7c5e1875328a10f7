"""Benchmarks, each against its baseline in the same run: `make bench`, or `python tests/bench.py [train eval hour]`.

Every measurement has a process of its own, so that its peak memory is its own; time is the median of the repeats after a warm-up.
The baseline writes UR-DMU's attention as the published formulas stand: the T x T decay kernel is built anew at every call, repeated for every
bag and head, and all attention maps are held in memory.
"""
import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch

from pivad.urdmu import URDMU, GlobalLocalAttention, flatten_crops


class LiteralAttention(GlobalLocalAttention):
    "The published formulas, taken literally"

    def forward(self, x):
        B, T, _ = x.shape
        q, k, v, t = (z.unflatten(-1, (self.heads, -1)).transpose(1, 2) for z in self.to_qkv(x).chunk(4, -1))
        attention = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)  # (B, h, T, T)
        n = torch.linspace(1, T, T, device=x.device)
        decay = torch.exp(-(n[None] - n[:, None]).abs() / torch.exp(torch.tensor(1.0)))
        decay = (decay / decay.sum(-1))[None, None].repeat(B, self.heads, 1, 1)  # (B, h, T, T)
        out = torch.cat([attention @ v, decay @ t], -1)
        return self.to_out(out.transpose(1, 2).flatten(2))


class LiteralURDMU(URDMU):
    "UR-DMU with literal attention, all crops at once"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for block in self.selfatt.layers:
            block[0].fn.__class__ = LiteralAttention

    def forward(self, x, pairs=None):
        x, crops = flatten_crops(x)
        return self.head(self.last(x), crops, pairs=self.training)


MODELS = {"ours": URDMU, "literal": LiteralURDMU}
TASKS = {  # name -> (what, shape of the features, repeats, models)
    "train": ("training step, 16 + 16 bags of T = 200", (32, 200, 1024), 3, ("literal", "ours")),
    "eval": ("evaluation pass, T = 3000, 10 crops", (1, 10, 3000, 1024), 1, ("literal", "ours")),
    "hour": ("evaluation pass, one hour at 30 fps: T = 6750, 10 crops", (1, 10, 6750, 1024), 1, ("ours",)),
}


def memory():
    "Peak resident memory of this process so far, in GB"
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def measure(task, name):
    "One measurement in this process: seconds, and peak memory above model and features"
    _, shape, repeats, _ = TASKS[task]
    torch.manual_seed(0)
    model, x = MODELS[name](), torch.rand(shape)
    labels = torch.tensor([0.0] * (shape[0] // 2) + [1.0] * (shape[0] - shape[0] // 2))
    x.sum()
    before, times, result = memory(), [], None
    for _ in range(repeats + (task == "train")):
        start = time.perf_counter()
        if task == "train":
            model.zero_grad()
            torch.manual_seed(0)
            loss, _ = model.mil_loss(model(x), labels)
            loss.backward()
            result = [loss.item()]
        else:
            with torch.no_grad():
                result = model.eval()(x).scores[0, :: shape[2] // 20].tolist()
        times.append(time.perf_counter() - start)
    return {"seconds": statistics.median(times[-repeats:]), "gb": memory() - before, "result": result}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", default=list(TASKS), help=f"which of {', '.join(TASKS)}; all by default")
    parser.add_argument("--one", nargs=2, metavar=("TASK", "MODEL"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(*args.one)))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32, on the CPU")
    for task in args.tasks:
        what, _, _, models = TASKS[task]
        print(f"\n{what}")
        found = {}
        for name in models:
            r = subprocess.run([sys.executable, __file__, "--one", task, name], capture_output=True, text=True)
            if r.returncode:
                print(f"  {name:8s} failed: {(r.stderr.strip().splitlines() or ['killed, probably for want of memory'])[-1]}")
                continue
            found[name] = json.loads(r.stdout)
            print(f"  {name:8s} {found[name]['seconds']:8.2f} s   {found[name]['gb']:6.2f} GB above model and features", flush=True)
        if len(found) == 2:
            a, b = found["literal"], found["ours"]
            gap = max(abs(x - y) for x, y in zip(a["result"], b["result"]))
            print(f"  ours: {a['seconds'] / b['seconds']:.1f} times as fast, {a['gb'] / max(b['gb'], 1e-3):.1f} times less memory; largest difference of the results {gap:.1e}")


if __name__ == "__main__":
    main()
