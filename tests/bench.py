"""Benchmarks, each against its baseline in the same run: `make bench`, or `python tests/bench.py [train eval hour i3d encoders bootstrap]`.

Every measurement has a process of its own, so that its peak memory is its own; time is the median of the repeats after a warm-up.
The baseline writes UR-DMU's attention as the published formulas stand: the T x T decay kernel is built anew at every call, repeated for every
bag and head, and all attention maps are held in memory. I3D's baseline is the network in plain eager torch, float32, a snippet at a time;
the bootstrap's is sklearn on the pooled frames of every resample, three of them timed and the rest extrapolated.
"""
import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
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


def timed(call):
    start = time.perf_counter()
    return call(), time.perf_counter() - start


def example_video(folder, repeats):
    "The example scene (240 x 320, 48 frames) as a video, several times over: path and number of frames"
    from pivad.example import scene
    from pivad.video import write_video

    frames = list(scene()) * repeats
    return write_video(f"{folder}/scene.mp4", frames), len(frames)


def i3d():
    "One 16-frame snippet at 224 x 224: plain eager torch, what reference features use, and bfloat16; alternating, so that all three meet the same machine"
    from pivad.example import scene
    from pivad.rgb import InceptionI3D, RGB_ENCODERS, RGBEncoder, crop, pick_precision, resize_short

    snippets = np.stack(list(scene())[:48]).reshape(3, 16, 240, 320, 3)[[0, 1, 2, 0]]
    net, record = InceptionI3D.pretrained(), RGB_ENCODERS["i3d-kinetics-400"]
    fast = {p: RGBEncoder(record, net, "cpu", precision=p) for p in ("float32", "bfloat16")}

    @torch.inference_mode()
    def eager():
        rows = []
        for s in snippets:
            x = torch.from_numpy(crop(resize_short(s, 256), "center", 224).transpose(3, 0, 1, 2).copy())[None].float()  # torch's own memory layout
            rows.append(net(x / 127.5 - 1))
        return torch.cat(rows).numpy()

    calls = {"eager": eager} | {p: (lambda e=e: e(snippets)[0]) for p, e in fast.items()}
    times, out = {k: [] for k in calls}, {}
    for i in range(6):
        for k, call in calls.items():
            out[k], t = timed(call)
            times[k] += [t / len(snippets)] * (i > 0)  # the first round warms up
    t = {k: statistics.median(v) for k, v in times.items()}
    gap = np.abs(out["float32"] - out["eager"]).max() / np.abs(out["eager"]).max()
    a, b = out["eager"], out["bfloat16"]
    cosine = ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min()
    print(f"\nI3D, a snippet of 16 frames at 224 x 224, one crop; decoded frames to features, median of 5 rounds; precision=auto is {pick_precision('auto', 'cpu')} here")
    print(f"  eager     {t['eager']:8.3f} s   {16 / t['eager']:6.0f} frames/s   float32, a snippet a pass")
    print(f"  float32   {t['float32']:8.3f} s   {16 / t['float32']:6.0f} frames/s   {t['eager'] / t['float32']:.1f} times as fast; largest difference {gap:.0e} of the largest value")
    print(f"  bfloat16  {t['bfloat16']:8.3f} s   {16 / t['bfloat16']:6.0f} frames/s   {t['eager'] / t['bfloat16']:.1f} times as fast; least cosine {cosine:.5f}")


def encoders():
    "Decoding and every light encoder alone, on the example scene"
    from pivad.features import encode
    from pivad.modalities import LIGHT, modality_encoder
    from pivad.video import read_snippets

    with tempfile.TemporaryDirectory() as folder:
        path, n = example_video(folder, 8)
        snippets, t = min((timed(lambda: list(read_snippets(path))) for _ in range(3)), key=lambda x: x[1])
    print(f"\ndecoding and light encoders, {n} frames of 240 x 320")
    print(f"  {'decode':9s} {n / t:7.0f} frames/s")
    made = {k: modality_encoder(k) for k in LIGHT}
    encode(made, snippets[:3])
    for k in LIGHT:
        seen = {j: made[j](snippets) for j in getattr(made[k], "needs", {})}
        made[k].reset()
        _, t = timed(lambda: made[k](snippets, seen) if seen else made[k](snippets))
        print(f"  {k:9s} {n / t:7.0f} frames/s" + (f"   given {', '.join(seen)}" if seen else ""), flush=True)
    _, t = timed(lambda: encode(made, snippets))
    print(f"  {'all five':9s} {n / t:7.0f} frames/s")


def bootstrap():
    "1,000 resamples of UCF-Crime's size: 290 test videos, 1.1 M frames, 16-frame scores"
    from sklearn.metrics import average_precision_score, roc_auc_score

    from pivad.evaluation import bootstrap as ours, count_cells, draw_videos

    r = np.random.default_rng(0)
    label = np.repeat([0, 1], [150, 140])
    lengths = np.maximum(16, r.lognormal(7.8, 0.9, 290).astype(int)) // 16 * 16
    lengths = (lengths * (1_111_808 / lengths.sum())).astype(int) // 16 * 16
    truth = []
    for n, y in zip(lengths, label):
        t = np.zeros(n, int)
        if y:
            t[n // 3 : n // 3 + max(16, int(0.15 * n))] = 1
        truth.append(t)
    video = np.repeat(np.arange(290), lengths)
    print(f"\nbootstrap of AUC, AUC_A, AP, AP_A and false alarm rates: 1,000 resamples of 290 videos, {sum(lengths):,} frames (random scores)")
    for what, each in (("one a snippet of 16 frames", 16), ("one a frame, all different", 1)):
        scores = [np.repeat(r.beta(2, 5, len(t) // each), each) + 0.2 * t for t in truth]
        cells, t_count = timed(lambda: count_cells(np.concatenate(scores), np.concatenate(truth), video, label == 1))
        samples, t = timed(lambda: ours(cells, 1000))

        def naive(draw):
            s, y, odd = (np.concatenate([x[i] for i in draw]) for x in (scores, truth, [np.full(n, k) for n, k in zip(lengths, label)]))
            return [f(y[part], s[part]) for part in (slice(None), odd == 1) for f in (roc_auc_score, average_precision_score)]

        drawn = [np.repeat(np.arange(290), w.astype(int)) for w, _ in zip(draw_videos(cells, 1000), range(3))]
        found = [timed(lambda: naive(draw)) for draw in drawn]
        gap = np.abs(np.array([x for x, _ in found]) - samples.loc[:2, ["AUC", "AP", "AUC_A", "AP_A"]].to_numpy()).max()
        slow = statistics.median(t for _, t in found)
        print(f"  {what}: {len(cells.score):,} different scores")
        print(f"    sklearn {1000 * slow:8.1f} s   extrapolated from the median of 3 resamples, {slow:.2f} s each")
        print(f"    ours    {t + t_count:8.1f} s   {1000 * slow / (t + t_count):.0f} times as fast; largest difference in these 3 resamples {gap:.0e}")


SINGLE = {"i3d": i3d, "encoders": encoders, "bootstrap": bootstrap}


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
    parser.add_argument("tasks", nargs="*", default=[*TASKS, *SINGLE], help=f"which of {', '.join([*TASKS, *SINGLE])}; all by default")
    parser.add_argument("--one", nargs=2, metavar=("TASK", "MODEL"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(*args.one)))
        return
    if unknown := set(args.tasks) - set(TASKS) - set(SINGLE):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32, on the CPU")
    for task in args.tasks:
        if task in SINGLE:
            SINGLE[task]()
            continue
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
