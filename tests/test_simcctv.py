"""SimCCTV: truth against the pictures, determinism, the builder, and the features that lie in the repository."""
import json

import cv2
import numpy as np
import pytest

from conftest import ROOT
from pivad.core import InputError, cache_dir
from pivad.datasets import load_dataset
from pivad.features import FeatureStore, read_features, read_meta
from pivad.simactors import draw, expose, ideal
from pivad.simcctv import WIDTHS, add_truth, build, embed_text, extract_features, keypoints, make_video, plan, read_truth, simcctv
from pivad.simevents import EPISODES, film
from pivad.simscenes import SCENES
from pivad.simworld import CLASSES, HEIGHT, THINGS, WIDTH

SHIPPED = ROOT / "simcctv"
SPECS = plan()


def world_of(spec, n=None, lights=True):
    world, events = film(spec["episode"], bool(spec["label"]), spec["scene"], spec["camera"], spec["hour"], n or spec["n_frames"], spec["key"])
    if not lights:
        world.glows, world.puffs = [], []      # a flash changes every grey level, smoke is no rigid thing
    return world, events


@pytest.fixture(scope="module")
def samples():
    "One video of each class, as (world, frames to look at); flashes and smoke left out"
    specs = [next(s for s in SPECS if s["episode"] == kind and s["label"] == k % 2) for k, kind in enumerate(EPISODES)]
    return [(world_of(s, lights=False)[0], [90, 180]) for s in specs]


def grey(canvas):
    return cv2.cvtColor(ideal(canvas).astype(np.float32), cv2.COLOR_RGB2GRAY)


def test_flow_warps_the_next_frame_onto_this_one(samples):
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    errors, moving, unwarped = [], [], []
    for world, frames in samples:
        for t in frames:
            a, b = draw(world, t), draw(world, t + 1)
            u, v = x + a.flow[..., 0], y + a.flow[..., 1]
            back = cv2.remap(grey(b), u, v, cv2.INTER_LINEAR)
            same = cv2.remap(b.ident.astype(np.float32), u, v, cv2.INTER_NEAREST) == a.ident
            inside = (u >= 0) & (u <= WIDTH - 1) & (v >= 0) & (v <= HEIGHT - 1)
            free = same & inside                                  # unoccluded: the same thing is at both ends
            fast = free & (np.linalg.norm(a.flow, axis=-1) > .5)
            errors.append(np.median(abs(back - grey(a))[free]))
            if fast.sum() > 100:
                moving.append(np.median(abs(back - grey(a))[fast]))
                unwarped.append(np.median(abs(grey(b) - grey(a))[fast]))
    assert max(errors) <= 1
    assert len(moving) > 8 and np.median(moving) < 4 and np.median(moving) < .5 * np.median(unwarped), (moving, unwarped)


def test_nearer_things_hide_farther_ones(samples):
    "Where a person was drawn, nothing that stands still is nearer; alone in the picture, everybody covers at least what they cover among others"
    checked = 0
    for world, frames in samples:
        for t in frames:
            canvas, everybody = draw(world, t), world.figures
            people = canvas.ident // 1000 == THINGS
            assert (canvas.depth[people] <= world.static.depth[people] + 1e-3).all() and canvas.depth.min() > 0
            assert np.isfinite(canvas.depth).all() and np.isfinite(canvas.flow).all()
            for i in [i for i, f in enumerate(everybody) if f.present(t)][:2]:
                world.figures = [f if k == i else _nobody(f) for k, f in enumerate(everybody)]
                alone = draw(world, t)
                world.figures = everybody
                ident = THINGS * 1000 + i + 1
                visible, whole = canvas.ident == ident, alone.ident == ident
                hidden = whole & ~visible
                assert not (visible & ~whole).any()
                assert (canvas.depth[hidden] <= alone.depth[hidden] + 1e-3).all()      # who hides is nearer
                checked += hidden.sum()
    assert checked > 100


def _nobody(figure):
    import copy

    away = copy.copy(figure)
    away.first = away.last = 0
    return away


def test_keypoints_lie_in_their_persons_mask(samples):
    inside = []
    for world, frames in samples:
        for t in frames:
            canvas = draw(world, t)
            for i, points in keypoints(world, canvas, t).items():
                assert points.shape == (17, 3)
                inside += [canvas.ident[int(round(y)), int(round(x))] == THINGS * 1000 + i for x, y, seen in points.astype(float) if seen]
    assert len(inside) > 500 and np.mean(inside) >= .95


def test_same_seed_same_bytes_other_seed_other_video(tmp_path):
    spec = SPECS[0] | {"n_frames": 128}
    make_video(spec, tmp_path / "a"), make_video(spec, tmp_path / "b"), make_video(spec | {"key": "1/other"}, tmp_path / "c")
    for file in (f"videos/{spec['video']}.mp4", f"truth/{spec['video']}.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
        assert (tmp_path / "a" / file).read_bytes() != (tmp_path / "c" / file).read_bytes()


def test_plan_is_balanced():
    count = lambda **k: sum(all(s[a] == b for a, b in k.items()) for s in SPECS)
    assert len(SPECS) == 180 and len({s["video"] for s in SPECS}) == 180 and len({s["key"] for s in SPECS}) == 180
    assert [count(split=s, label=l) for s in ("train", "test") for l in (0, 1)] == [60, 60, 30, 30]
    for kind in EPISODES:
        assert count(split="train", **{"class": kind}) == 6 and count(split="test", **{"class": kind}) == 3
    for scene in SCENES:
        for camera in range(3):
            assert all(count(split=s, scene=scene, camera=camera, label=1) == count(split=s, scene=scene, camera=camera, label=0) > 0 for s in ("train", "test"))
    assert all(300 <= s["n_frames"] <= 600 for s in SPECS)      # 20 to 40 s


def test_build_resumes_and_mends(tmp_path, monkeypatch):
    import pivad.simcctv as module

    monkeypatch.setattr(module, "plan", lambda seed=0: [s | {"n_frames": 128, "label": 0} for s in SPECS[1:6:2]])
    names = [s["video"] for s in module.plan()]
    made, real = [], module.make_video

    def dies(spec, out):
        if len(made) == 1:
            raise KeyboardInterrupt
        made.append(spec["video"]); real(spec, out)

    monkeypatch.setattr(module, "make_video", dies)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, workers=1, progress=False)
    assert made == names[:1] and not (tmp_path / "simcctv.csv").exists()
    monkeypatch.setattr(module, "make_video", lambda spec, out: (made.append(spec["video"]), real(spec, out)))
    table = build(tmp_path, workers=1, progress=False)
    assert made == names and simcctv(tmp_path).table["video"].tolist() == names
    before = table.read_bytes()
    (tmp_path / f"videos/{names[1]}.mp4").write_bytes(b"cut")                   # a broken file is made again, the others are not
    build(tmp_path, workers=1, progress=False)
    assert made == [*names, names[1]] and table.read_bytes() == before
    assert not list(tmp_path.rglob(".*"))


def test_the_command_line_builds_it(tmp_path, monkeypatch):
    "In several processes, with a bar over videos; without a folder there is a message, no traceback"
    import pivad.simcctv as module
    from click.testing import CliRunner
    from pivad.cli import cli

    used, real = [], module._run
    monkeypatch.setattr(module, "plan", lambda seed=0: [s | {"n_frames": 128} for s in SPECS[:3]])
    monkeypatch.setattr(module, "_run", lambda todo, out, workers: used.append(workers) or real(todo, out, workers))
    told = CliRunner().invoke(cli, ["dataset", "build", "simcctv", "--out", str(tmp_path), "--workers", "3"])
    assert told.exit_code == 0 and "3/3" in told.output and "simcctv.csv" in told.output and used == [3]
    assert simcctv(tmp_path).table["video"].tolist() == [s["video"] for s in SPECS[:3]]
    for words, hint in ((["simcctv"], "--out"), (["simcctv", "--root", str(tmp_path), "--workers", "2"], "nothing is rendered")):
        told = CliRunner().invoke(cli, ["dataset", "build", *words])
        assert told.exit_code == 2 and hint in told.output


def test_bad_input(tmp_path):
    for call, words in ((lambda: build(tmp_path, videos=["test/Nothing-00"]), "unknown video"), (lambda: build(tmp_path, workers=0, videos=[SPECS[0]["video"]]), "workers"),
                        (lambda: simcctv(tmp_path), "no such file"), (lambda: read_truth(tmp_path / "x.safetensors"), "no such truth file"),
                        (lambda: film("Dancing", True, "street"), "unknown class"), (lambda: film("Fighting", True, "street", n=64), "too short"), (lambda: film("Fighting", True, "beach"), "unknown scene"),
                        (lambda: film("Fighting", True, "street", hour="noon"), "unknown hour"), (lambda: extract_features(tmp_path, tmp_path), "videos")):
        with pytest.raises(InputError, match=words):
            call()
    (tmp_path / "bad.safetensors").write_bytes(b"not a file of tensors")
    with pytest.raises(InputError, match="not a truth file"):
        read_truth(tmp_path / "bad.safetensors")


def test_text_embeddings_are_fixed():
    a, b = embed_text("in a street: two people, each of whom walks"), embed_text("in a street: two people, each of whom walks, a car drives by")
    assert np.isclose(np.mean(a**2), 1) and a @ b / 128 > .6 > abs(embed_text("smoke") @ a / 128)
    assert np.allclose(a[:3], [-1.52231, -0.98785, 1.55661], atol=1e-4) and not embed_text("").any()


needs_features = pytest.mark.skipif(not (SHIPPED / "features").is_dir(), reason="needs simcctv/features, which a wheel or sdist does not have")


@needs_features
def test_shipped_features_are_whole():
    data, store = load_dataset("simcctv", root=SHIPPED), FeatureStore(SHIPPED / "features")
    assert len(store) == len(data.table) == 180 and sum(p.stat().st_size for p in (SHIPPED / "features").rglob("*.safetensors")) <= 18e6
    for _, row in data.table.iterrows():
        assert store.dims(row["video"]) == WIDTHS | {"rgb": 1024} and store.meta(row["video"])["n_snippets"] * 16 == row["n_frames"]
    assert set(json.loads((SHIPPED / "captions.json").read_text())) == set(data.table["video"])


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory):
    "Two of the shipped videos, rendered again"
    out = tmp_path_factory.mktemp("rebuilt")
    names = ["test/Shoplifting-01", "test/Falling-02-normal"]
    build(out, workers=1, videos=names, progress=False)
    return out, names


@needs_features
def test_shipped_truth_is_rendered_again(rebuilt):
    "Embeddings of the truth, events and captions; they come before the encoder, so PyAV's version does not matter to them"
    out, names = rebuilt
    data, captions = load_dataset("simcctv", root=SHIPPED).table.set_index("video"), json.loads((SHIPPED / "captions.json").read_text())
    for name in names:
        arrays, meta = read_truth(out / f"truth/{name}.safetensors")
        shipped = read_features(SHIPPED / f"features/{name}.safetensors")
        for k in WIDTHS:     # other processors round the last bit of a sine differently, which may tip a pixel
            assert np.abs(arrays[k].astype(np.float16).astype(np.float32) - shipped[k]).mean() < 1e-3 * shipped[k].std(), (name, k)
        assert meta["events"] == data.loc[name, "events"] and meta["captions"] == captions[name]


@needs_features
def test_shipped_rgb_features_are_found_again(rebuilt):
    "With I3D's weights in the cache, in float32; what is shipped was computed in bfloat16, which costs 0.0001 of cosine; other builds of x264 encode a little differently"
    from pivad.rgb import load_rgb_encoder
    from pivad.video import read_snippets

    if not list((cache_dir() / "weights").glob("i3d-kinetics-400-*.safetensors")):
        pytest.skip("needs I3D's weights in the cache: pivad extract fetches them")
    out, names = rebuilt
    for name in names:
        encoder = load_rgb_encoder(device="cpu")
        snippets = [s for i, s in enumerate(read_snippets(out / f"videos/{name}.mp4")) if i in (3, 11)]
        a, b = encoder(snippets)[0], read_features(SHIPPED / f"features/{name}.safetensors", ["rgb"])["rgb"][0][[3, 11]]
        assert ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min() > .99
    assert read_meta(SHIPPED / f"features/{names[0]}.safetensors")["precision"] == "bfloat16"


def test_truth_joins_features_once(rebuilt, tmp_path):
    from pivad.features import write_features

    out, names = rebuilt
    n = len(read_truth(out / f"truth/{names[0]}.safetensors")[0]["pose"])
    write_features(tmp_path / "f.safetensors", {"rgb": np.zeros((1, n, 8))}, {"modalities": {}, "encoder": "made up"})
    add_truth(tmp_path / "f.safetensors", out / f"truth/{names[0]}.safetensors")
    before = (tmp_path / "f.safetensors").read_bytes()
    add_truth(tmp_path / "f.safetensors", out / f"truth/{names[0]}.safetensors")
    assert (tmp_path / "f.safetensors").read_bytes() == before and set(read_features(tmp_path / "f.safetensors")) == {"rgb", *WIDTHS}


def test_expose_is_eight_bits(samples):
    world, frames = samples[0]
    x = expose(world, draw(world, frames[0]), frames[0])
    assert x.shape == (HEIGHT, WIDTH, 3) and x.dtype == np.uint8 and len(CLASSES) == 10 and x.std() > 20


@needs_features
def test_demo_runs(tmp_path):
    import papermill

    notebook = ROOT / "nbs/experiments/demo.ipynb"
    parameters = dict(steps=4, warmup_steps=2, segments=16, batch_size=4, seeds=[0, 1], out=str(tmp_path / "run"), device="cpu")
    assert set(parameters) <= set(papermill.inspect_notebook(str(notebook)))
    papermill.execute_notebook(str(notebook), str(tmp_path / "out.ipynb"), parameters=parameters, cwd=str(notebook.parent), progress_bar=False)
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["motion_energy"]["AUC"] < 70 and set(results["overall"]) == {"motion energy", "UR-DMU", "π-VAD"} and len(results["rows"]) == 4
    assert len(results["explained_variance"]) == 8 and all(row["pose"] <= 100 for row in results["explained_variance"])
