"""What nbs/05_features.ipynb does not show: kill -9 at random moments, broken files, joined parts, other settings."""
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from pivad.core import InputError
from pivad.features import FeatureStore, ahead, check_folder, extract, load_parts, read_features, read_meta, write_features
from pivad.modalities import ModalityEncoder
from pivad.video import write_video

SCRIPT = '''
import sys, time
import numpy as np
from pivad.features import extract
class Slow:
    name, dim, sha256 = "slow", 12, "0"
    def __call__(self, snippets, crops=1, batch_size=8):
        time.sleep(0.01 * len(snippets))
        return np.stack([[np.sqrt(s[:, ::20, ::20].mean(0).ravel()[:12]) for s in snippets]] * crops).astype(np.float32)
print("started", flush=True)
print(extract(sys.argv[1], sys.argv[2], rgb=Slow(), modalities=["panoptic"], crops=5, every=4, batch_size=2, progress=False))
'''


class Tiny:
    "Mean colour of a snippet."
    name, dim, sha256 = "tiny", 3, "0"

    def __call__(self, snippets, crops=1, batch_size=8):
        return np.stack([[s.mean((0, 1, 2)) / 255 for s in snippets]] * crops)


def walk(n, seed, h=64, w=96):
    x = np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)
    for t in range(n):
        y = x.copy()
        y[20:50, (3 * t) % 70 : (3 * t) % 70 + 20] = 255
        yield y


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for name, n in {"long": 16 * 40 + 3, "cams/a": 40, "cams/b": 90}.items():
        write_video(folder / f"{name}.mp4", walk(n, n))
    return folder


def contents(folder):
    "Every file below `folder`, hidden ones too, and its bytes."
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def written(out):
    "Parts put aside and finished files so far; os.walk does not mind that files vanish meanwhile."
    return {os.path.relpath(os.path.join(d, f), out) for d, _, files in os.walk(out) for f in files if f.endswith(".safetensors") and not f.startswith(".")}


def test_kill_and_resume_is_byte_identical(clips, tmp_path):
    run = [sys.executable, "-c", SCRIPT, str(clips)]
    subprocess.run([*run, str(tmp_path / "unbroken")], check=True, timeout=300)
    r, kills, seen, out = np.random.default_rng(0), 0, set(), tmp_path / "broken"
    while True:
        p = subprocess.Popen([*run, str(out)], stdout=subprocess.DEVNULL)
        goal = len(seen) + r.integers(2, 6)  # let it write two to five files more, so that it comes to an end however slow the machine is
        while p.poll() is None and len(seen | written(out)) < goal:
            time.sleep(0.01)
        seen |= written(out)
        time.sleep(r.uniform(0, 0.15))
        if p.poll() is not None:
            break
        os.kill(p.pid, signal.SIGKILL)
        p.wait()
        kills += 1
    assert p.returncode == 0 and kills >= 2
    assert len([f for f in seen if f.startswith(".partial/long/0")]) >= 2  # it did go on inside the long video, not only between videos
    assert contents(out) == contents(tmp_path / "unbroken")
    assert sorted(contents(out)) == ["cams/a.safetensors", "cams/b.safetensors", "long.safetensors"]


def test_twenty_kills_and_two_processes_at_once_are_byte_identical(clips, tmp_path):
    "Two processes share a folder; one of them is killed at twenty random moments, and each time another takes its place."
    run = [sys.executable, "-c", SCRIPT, str(clips)]
    subprocess.run([*run, str(tmp_path / "unbroken")], check=True, timeout=300)
    r, out = np.random.default_rng(1), tmp_path / "shared"
    for _ in range(20):  # import takes a while: the moment counts from "started"
        p = subprocess.Popen([*run, str(out)], stdout=subprocess.PIPE, text=True)
        assert p.stdout.readline() == "started\n"
        time.sleep(r.uniform(0, 0.12))
        p.kill()
        p.wait()
        p.stdout.close()
    both = [subprocess.Popen([*run, str(out)], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [p.communicate(timeout=300)[0] for p in both]
    assert [p.returncode for p in both] == [0, 0] and all(re.search(r"failed +0\n", s) for s in said)
    assert contents(out) == contents(tmp_path / "unbroken")
    assert not [d for d in out.iterdir() if d.name.startswith(".")]


def test_a_held_video_waits_and_a_killed_holder_is_replaced(clips, tmp_path):
    code = "import sys, time, pathlib; from pivad.features import try_lock\nwith try_lock(pathlib.Path(sys.argv[1])) as mine: print(mine, flush=True); time.sleep(600)"
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "out/.locks/cams%2Fa")], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "True\n"
    other = subprocess.Popen([sys.executable, "-c", SCRIPT, str(clips), str(tmp_path / "out")], stdout=subprocess.DEVNULL)
    while not (tmp_path / "out/long.safetensors").is_file():
        assert other.poll() is None
        time.sleep(0.05)
    assert not (tmp_path / "out/cams/a.safetensors").exists()  # passed over, not waited for
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert other.wait(timeout=120) == 0 and (tmp_path / "out/cams/a.safetensors").is_file()


def test_shards_are_disjoint_and_complete(clips, tmp_path):
    args = dict(rgb=Tiny(), modalities=[], progress=False)
    done = [extract(clips, tmp_path, shard=f"{i}/2", **args).done for i in (1, 2)]
    assert done == [2, 1] and len(FeatureStore(tmp_path)) == 3
    for bad in ("0/2", "3/2", "2", "a/b"):
        with pytest.raises(InputError, match="not a shard"):
            extract(clips, tmp_path, shard=bad, **args)


def test_check_names_what_is_wrong(clips, tmp_path):
    args = dict(rgb=Tiny(), modalities=[], progress=False)
    extract(clips, tmp_path, **args)
    assert check_folder(tmp_path, ["long"]) == []
    raw_write(tmp_path / "nan.safetensors", NAN, read_meta(tmp_path / "long.safetensors"))
    write_features(tmp_path / "half.safetensors", GOOD, read_meta(tmp_path / "long.safetensors") | {"precision": "bfloat16"})
    found = dict(check_folder(tmp_path, ["long", "absent"]))
    assert set(found) == {"nan", "half", "absent"} and "NaN" in found["nan"] and "bfloat16" in found["half"] and found["absent"] == "missing"


def test_a_decoding_error_is_raised_where_it_is_read():
    def frames():
        yield 1
        raise InputError("damaged")

    got = ahead(frames())
    assert next(got) == 1
    with pytest.raises(InputError, match="damaged"):
        next(got)


def test_second_run_does_nothing(clips, tmp_path, monkeypatch):
    first = extract(clips, tmp_path, rgb=Tiny(), modalities=["panoptic"], progress=False)
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    monkeypatch.setattr("pivad.features.probe", None)  # would fail if a video were opened
    second = extract(clips, tmp_path, rgb=Tiny(), modalities=["panoptic"], progress=False)
    assert (first.done, first.skipped, first.snippets) == (3, 0, 40 + 2 + 5)
    assert (second.done, second.skipped, second.snippets, second.failed) == (0, 3, 0, [])
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == stamps


def test_second_run_loads_no_network(clips, tmp_path, monkeypatch):
    import pivad.rgb

    class Stand(Tiny):
        name, sha256 = "i3d-kinetics-400", pivad.rgb.RGB_ENCODERS["i3d-kinetics-400"].weights.sha256

    extract(clips, tmp_path, rgb=Stand(), modalities=[], progress=False)
    monkeypatch.setattr(pivad.rgb, "load_rgb_encoder", None)
    monkeypatch.setattr(pivad.rgb, "fetch", None)
    assert extract(clips, tmp_path, rgb="i3d-kinetics-400", modalities=["panoptic"], progress=False).done == 3  # panoptic alone
    assert FeatureStore(tmp_path).dims("long") == {"panoptic": 146, "rgb": 3}


def test_bad_videos_are_reported_and_do_not_stop_the_rest(clips, tmp_path):
    bad = {"missing": tmp_path / "missing.mp4", "text": tmp_path / "text.mp4", "short": tmp_path / "short.mp4", "cut": tmp_path / "cut.mp4"}
    bad["text"].write_text("text")
    bad["cut"].write_bytes((clips / "long.mp4").read_bytes()[:-5000])
    write_video(bad["short"], walk(7, 0))
    summary = extract(bad | {"good": clips / "cams/a.mp4"}, tmp_path / "out", rgb=Tiny(), modalities=[], progress=False)
    assert summary.done == 1 and [name for name, _ in summary.failed] == ["missing", "text", "short", "cut"]
    for word, (_, reason) in zip(["no such video", "not a video", "7 frames", "cut off"], summary.failed):
        assert word in reason
    assert sorted(contents(tmp_path / "out")) == ["good.safetensors"]
    assert re.search(r"failed +4\n", str(summary)) and "text.mp4" in str(summary)


def test_a_broken_feature_file_is_made_anew(clips, tmp_path):
    args = dict(rgb=Tiny(), modalities=[], progress=False)
    extract(clips, tmp_path, **args)
    whole = contents(tmp_path)
    (tmp_path / "long.safetensors").write_bytes(whole["long.safetensors"][:-100])
    again = extract(clips, tmp_path, **args)
    assert (again.done, again.skipped) == (1, 2) and contents(tmp_path) == whole


@pytest.mark.parametrize("change", [dict(crops=5), dict(tail="pad"), dict(rgb="other")])
def test_other_settings_are_an_error_unless_overwrite(clips, tmp_path, change):
    class Other(Tiny):
        name = "other"

    args = dict(rgb=Tiny(), modalities=[], progress=False)
    extract(clips, tmp_path, **args)
    before = contents(tmp_path)
    changed = args | change | ({"rgb": Other()} if "rgb" in change else {})
    with pytest.raises(InputError) as e:
        extract(clips, tmp_path, **changed)
    assert "other settings" in str(e.value) and "cams/a.safetensors" in str(e.value) and "overwrite" in str(e.value)
    assert contents(tmp_path) == before
    assert extract(clips, tmp_path, overwrite=True, **changed).done == 3
    assert extract(clips, tmp_path, overwrite=True, **changed).skipped == 3


def test_a_changed_video_or_modality_is_noticed(tmp_path):
    video = write_video(tmp_path / "v.mp4", walk(40, 0))

    class Sound(ModalityEncoder):
        name, dim, looks_at, source = "sound-test", 1, "nothing", "version 1"

        def embed(self, snippet):
            return np.ones(1)

    args = dict(rgb=Tiny(), modalities=[Sound()], progress=False)
    extract(video, tmp_path / "out", **args)
    Sound.source = "version 2"
    with pytest.raises(InputError, match="version 2"):
        extract(video, tmp_path / "out", **args)
    Sound.source = "version 1"
    write_video(video, walk(40, 1, h=80))
    with pytest.raises(InputError, match="video_bytes"):
        extract(video, tmp_path / "out", **args)
    video.unlink()  # gone after extraction: the features stay good
    assert extract({"v": video}, tmp_path / "out", **args).skipped == 1


def test_unknown_names_stop_before_any_work(clips, tmp_path):
    for bad in (dict(modalities=["poes"]), dict(rgb="i3d-kinetics-9"), dict(crops=3), dict(tail="cut")):
        with pytest.raises(InputError):
            extract(clips, tmp_path / "out", progress=False, **({"rgb": Tiny(), "modalities": []} | bad))
    assert not (tmp_path / "out").exists()


def test_parts_of_other_settings_are_discarded(tmp_path):
    write_features(tmp_path / "p/000000.safetensors", {"rgb": np.ones((1, 4, 2))}, {"crops": 1})
    assert len(load_parts(tmp_path / "p", {"crops": 1})) == 1
    assert load_parts(tmp_path / "p", {"crops": 5}) == [] and not (tmp_path / "p").exists()


def raw_write(path, arrays, meta):
    "A feature file that write_features would refuse."
    from safetensors.numpy import save_file

    save_file({k: np.asarray(v, np.float16) for k, v in arrays.items()}, path, metadata={"pivad": json.dumps(meta)})


GOOD = {"rgb": np.zeros((1, 6, 4)), "flow": np.zeros((6, 3))}
NAN = GOOD | {"flow": np.where(np.arange(18).reshape(6, 3) == 7, np.nan, 0)}


@pytest.mark.parametrize(
    "arrays, words",
    [
        (NAN, ["v.safetensors", "flow", "NaN", "1 of 6", "first is 2"]),
        (GOOD | {"rgb": np.full((1, 6, 4), np.inf)}, ["rgb", "infinity"]),
        (GOOD | {"flow": np.zeros((5, 3))}, ["differ in T", "flow 5", "rgb 6"]),
        (GOOD | {"rgb": np.zeros((6, 4))}, ["rgb", "wrong axes", "(crops, T, D)"]),
    ],
)
def test_arrays_that_cannot_be_right(tmp_path, arrays, words):
    raw_write(tmp_path / "v.safetensors", arrays, {})
    for f in (lambda: FeatureStore(tmp_path).load("v"), lambda: write_features(tmp_path / "v.safetensors", arrays, {})):
        with pytest.raises(InputError) as e:
            f()
        for word in words:
            assert word in str(e.value)


def test_missing_truncated_and_foreign_files(tmp_path):
    write_features(tmp_path / "v.safetensors", GOOD, {"n_frames": 96, "fps": 25.0})
    data = (tmp_path / "v.safetensors").read_bytes()
    store = FeatureStore(tmp_path)
    for size in (0, 5, 100, len(data) - 1):
        (tmp_path / "cut.safetensors").write_bytes(data[:size])
        with pytest.raises(InputError, match="cut.safetensors: not a whole safetensors file"):
            store.load("cut")
    with pytest.raises(InputError, match="none.safetensors: no such feature file"):
        store.load("none")
    with pytest.raises(InputError, match="no pose in this feature file"):
        store.load("v", ["rgb", "pose"])
    with pytest.raises(InputError, match="no such feature folder"):
        FeatureStore(tmp_path / "nowhere")
    from safetensors.numpy import save_file

    save_file({"rgb": np.zeros((1, 2, 3))}, tmp_path / "foreign.safetensors")
    with pytest.raises(InputError, match="not of features"):
        read_meta(tmp_path / "foreign.safetensors")


def test_joined_parts(tmp_path):
    r = np.random.default_rng(0)
    made = {}
    for name, t in {"x/1": 3, "x/2": 1, "y": 4}.items():
        made[name] = {"rgb": r.random((5, t, 8)).astype(np.float16), "flow": r.random((t, 2)).astype(np.float16)}
        write_features(tmp_path / f"{name}.safetensors", made[name], {"n_frames": 16 * t + 5, "fps": 25.0, "crops": 5, "tail": "drop"})
    store = FeatureStore(tmp_path)
    joined = store.load(["y", "x/1", "x/2"])
    assert (joined["rgb"] == np.concatenate([made[k]["rgb"] for k in ("y", "x/1", "x/2")], 1)).all() and joined["rgb"].dtype == np.float32
    assert list(store.load(["y", "x/1"], ["flow"])) == ["flow"] and store.load(["y", "x/1"], ["flow"])["flow"].shape == (7, 2)
    meta = store.meta(["x/1", "x/2"])
    assert (meta["n_snippets"], meta["n_frames"], meta["crops"]) == (4, 16 * 4 + 10, 5)
    assert ["y", "x/1"] in store and ["y", "z"] not in store and len(store) == 3
    write_features(tmp_path / "one.safetensors", {"rgb": np.zeros((1, 2, 8)), "flow": np.zeros((2, 2))}, {})
    with pytest.raises(InputError, match="parts of a joined video differ"):
        store.load(["y", "one"])


def test_equal_contents_are_equal_bytes(tmp_path):
    code = "import numpy as np, sys; from pivad.features import write_features; write_features(sys.argv[1], {'b': np.ones((3, 2)), 'rgb': np.ones((1, 3, 2))}, dict(zip('hgfedcba', range(8))))"
    for name in "123":  # each process has its own hash seed
        subprocess.run([sys.executable, "-c", code, str(tmp_path / f"{name}.safetensors")], check=True, timeout=120)
    assert len({p.read_bytes() for p in tmp_path.iterdir()}) == 1


def test_real_clip_end_to_end(shared, tmp_path):
    "I3D, flow and panoptic on one real clip: shapes, range, and a fight that does not look like a still room."
    clip = shared / "data/surveillance_fights/fight/fi001.mp4"
    start = time.time()
    summary = extract([clip], tmp_path, progress=False)
    assert summary.done == 1 and not summary.failed and 0 < summary.seconds <= time.time() - start
    x, meta = read_features(tmp_path / "fi001.safetensors"), read_meta(tmp_path / "fi001.safetensors")
    assert {k: v.shape for k, v in x.items()} == {"rgb": (1, 3, 1024), "flow": (3, 160), "panoptic": (3, 146)}
    assert meta["n_frames"] == 53 and meta["n_snippets"] == 3 and meta["encoder"] == "i3d-kinetics-400"
    assert 0 <= x["rgb"].min() and 0.05 < x["rgb"].mean() < 1  # means of ReLU outputs
