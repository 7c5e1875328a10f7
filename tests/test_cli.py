"""The command line, as a user types it: every step from videos to scores, exit codes, and one clear error for bad input."""
import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from pivad.core import rng


def pivad(*args, cwd=None):
    "Run the command in a process of its own"
    return subprocess.run([sys.executable, "-m", "pivad.cli", *map(str, args)], capture_output=True, text=True, cwd=cwd, timeout=900)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    "Six videos of 40 frames, a CSV, and I3D with random weights"
    import torch
    from safetensors.torch import save_file

    from pivad.rgb import InceptionI3D
    from pivad.video import write_video

    folder, rows = tmp_path_factory.mktemp("world"), []
    torch.manual_seed(0)
    save_file(InceptionI3D().state_dict(), folder / "i3d.safetensors")
    for i in range(6):
        frames = rng(i).integers(0, 255, (40, 48, 64, 3), dtype=np.uint8)
        (folder / "videos").mkdir(exist_ok=True)
        write_video(folder / f"videos/v{i}.mp4", frames, 25)
        rows.append({"video": f"v{i}", "split": "train" if i < 4 else "test", "label": i % 2, "class": "", "n_frames": 40, "events": "8-24" if i % 2 else ""})
    pd.DataFrame(rows).to_csv(folder / "data.csv", index=False)
    return folder


def test_from_videos_to_scores(world):
    weights = world / "i3d.safetensors"
    r = pivad("extract", world / "videos", "--out", world / "features", "--rgb", weights)
    assert r.returncode == 0 and "12 snippets in" in r.stdout and re.search(r"videos encoded +6 ", r.stdout), r.stdout + r.stderr
    r = pivad("extract", world / "videos", "--out", world / "features", "--rgb", weights)
    assert r.returncode == 0 and re.search(r"videos encoded +0\n", r.stdout) and re.search(r"finished before +6\n", r.stdout)

    r = pivad("features", "check", world / "features", "--dataset", world / "data.csv")
    assert r.returncode == 0 and "6 files, 0 problems" in r.stdout, r.stdout + r.stderr

    data = ("--dataset", world / "data.csv", "--features", world / "features")
    r = pivad("train", *data, "--out", world / "run", "--segments", 4, "--batch-size", 2, "--teacher-steps", 3, "--warmup-steps", 2, "--steps", 3, "--lambda-1", 0.02, "--place", "late")
    assert r.returncode == 0, r.stderr
    config = json.loads((world / "run/config.json").read_text())
    assert config["config"]["lambda_1"] == 0.02 and config["config"]["place"] == ["late"] and config["in_dim"] == 1024

    r = pivad("evaluate", world / "run", *data, "--out", world / "metrics.json", "--bootstrap", 20)
    assert r.returncode == 0 and "AUC_A" in r.stdout, r.stderr
    metrics = json.loads((world / "metrics.json").read_text())
    assert metrics["protocol"]["frames"] == 64 and metrics["protocol"]["selection"] == "last step"

    (world / "scores").mkdir()
    for v, x in metrics["scores"].items():
        np.save(world / f"scores/{v}.npy", x)
    r = pivad("evaluate", "--scores", world / "scores", "--dataset", world / "data.csv", "--out", world / "again.json", "--bootstrap", 20)
    assert r.returncode == 0 and "tail: drop" in r.stdout, r.stderr
    again = json.loads((world / "again.json").read_text())
    assert again["metrics"] == metrics["metrics"] and again["protocol"]["selection"] == "as given"
    r = pivad("dataset", "check", world / "data.csv", "--features", world / "features")
    assert r.returncode == 0 and "6 videos, all there" in r.stdout, r.stdout + r.stderr
    import torch
    from pivad.urdmu import URDMU
    torch.save({f"module.{k}": v for k, v in URDMU().state_dict().items()}, world / "published.pkl")
    r = pivad("evaluate", "--checkpoint", world / "published.pkl", *data, "--bootstrap", 20, "--level", "video")
    assert r.returncode == 0 and "video AUC" in r.stdout and "tail: drop" in r.stdout, r.stderr

    r = pivad("detect", world / "videos/v5.mp4", "--model", world / "run", "--rgb", weights, "--threshold", 0, cwd=world)
    assert r.returncode == 0, r.stderr
    scores = pd.read_csv(world / "v5-pivad/scores.csv")
    assert np.allclose(scores["score"], metrics["scores"]["v5"], atol=1e-5)  # what detect sees is what evaluate saw
    assert scores["end_frame"].tolist() == [16, 32] and scores["start_s"].tolist() == [0, 0.64]
    detection = json.loads((world / "v5-pivad/detection.json").read_text())
    assert len(detection["events"]) == 1 and detection["events"][0]["end_frame"] == 32
    assert (world / "v5-pivad/scores.png").stat().st_size > 5000

    r = pivad("detect", world / "videos/v5.mp4", "--model", world / "run", "--rgb", world / "run/student.safetensors")
    assert r.returncode == 1 and "do not fit" in r.stderr and "Traceback" not in r.stderr


@pytest.fixture(scope="module")
def crimes(tmp_path_factory):
    "UCF-Crime's files with three test videos, and 1,024-d features of ten crops; one video of whole snippets is a snippet short, as Roc-Ng's are"
    folder, r = tmp_path_factory.mktemp("crimes"), np.random.default_rng(0)
    (folder / "a").mkdir(); (folder / "f").mkdir()
    (folder / "a/Anomaly_Train.txt").write_text("Abuse/Abuse001_x264.mp4\nTraining_Normal_Videos_Anomaly/Normal_Videos001_x264.mp4\n")
    (folder / "a/Anomaly_Test.txt").write_text("Arson/Arson011_x264.mp4\nFighting/Fighting003_x264.mp4\nTesting_Normal_Videos_Anomaly/Normal_Videos_003_x264.mp4\n")
    (folder / "a/UCF_Annotation.txt").write_text("Fighting/Fighting003_x264.mp4 325 Fighting 16 48 160 327\nArson/Arson011_x264.mp4 320 Arson 80 240 -1 -1\n"
                                                 "Testing_Normal_Videos_Anomaly/Normal_Videos_003_x264.mp4 100 Normal -1 -1 -1 -1\n")
    for v, T in {"Abuse001": 9, "Normal_Videos001": 3, "Arson011": 19, "Fighting003": 20, "Normal_Videos_003": 6}.items():
        for k in range(10): np.save(folder / f"f/{v}_x264__{k}.npy", r.random((T, 1024), dtype=np.float32))
    return folder


def test_a_benchmark_from_its_files_to_numbers(crimes):
    r = pivad("dataset", "check", "ucf_crime", "--annotations", "a", "--features", "f", cwd=crimes)
    assert r.returncode == 0 and "5 videos, all there" in r.stdout, r.stdout + r.stderr
    r = pivad("dataset", "build", "ucf_crime", "--annotations", "a", "--features", "f", cwd=crimes)
    assert r.returncode == 0 and "lineage: roc-ng" in r.stdout and "clipped to its 325 frames" in r.stdout and "written: ucf_crime.csv" in r.stdout, r.stdout + r.stderr
    import torch
    from pivad.urdmu import URDMU
    torch.save({f"module.{k}": v for k, v in URDMU().state_dict().items()}, crimes / "ucf_trans_2022.pkl")
    outputs = []
    for data in (("ucf_crime", "--root", "a"), ("ucf_crime.csv",)):                      # the files, or the table built from them
        r = pivad("evaluate", "--checkpoint", "ucf_trans_2022.pkl", "--dataset", *data, "--features", "f", "--bootstrap", 20, "--out", f"{len(outputs)}.json", cwd=crimes)
        assert r.returncode == 0 and "tail: roc-ng" in r.stdout and "frames: 720\n" in r.stdout, r.stdout + r.stderr
        outputs.append(json.loads((crimes / f"{len(outputs)}.json").read_text()))
    assert outputs[0] == outputs[1] and outputs[0]["protocol"]["anomalous_frames"] == 160 + 32 + 160

    flat = np.concatenate([outputs[0]["scores"][v] for v in ("Arson011_x264", "Fighting003_x264", "Normal_Videos_003_x264")])
    np.save(crimes / "flat.npy", flat.repeat(16))
    (crimes / "lengths.csv").write_text("video,snippets\nArson011_x264,19\nFighting003_x264,20\nNormal_Videos_003_x264,6\n")
    truth = np.zeros((45, 16), np.int8); truth[5:15] = truth[20:22] = truth[29:39] = 1
    np.save(crimes / "gt.npy", truth.ravel())
    own = ("evaluate", "--scores", "flat.npy", "--dataset", "ucf_crime", "--root", "a", "--bootstrap", 20)
    r = pivad(*own, "--lengths", "lengths.csv", "--truth", "gt.npy", "--out", "2.json", cwd=crimes)
    assert r.returncode == 0 and "truth: gt.npy, roc-ng: equal to the official events" in r.stdout, r.stdout + r.stderr
    assert json.loads((crimes / "2.json").read_text())["metrics"] == outputs[0]["metrics"]
    np.save(crimes / "gt.npy", np.r_[truth.ravel(), np.zeros(48)])
    r = pivad(*own, "--lengths", "lengths.csv", "--truth", "gt.npy", cwd=crimes)
    assert r.returncode == 1 and "truth 768: rtfm" in r.stderr and "scores 720: roc-ng" in r.stderr and "Traceback" not in r.stderr
    np.save(crimes / "flat.npy", flat[:-1])
    r = pivad(*own, cwd=crimes)
    assert r.returncode == 1 and "different lengths" in r.stderr and "scores 44: no known lineage" in r.stderr and "drop 736" in r.stderr


def test_checking_a_benchmark_names_every_problem(crimes, tmp_path):
    import shutil
    shutil.copytree(crimes / "f", tmp_path / "f")
    for f in (tmp_path / "f").glob("Abuse*"): f.unlink()
    (tmp_path / "f/Arson011_x264__4.npy").unlink()
    for name, T in (("again/Normal_Videos001_x264", 3), ("extra", 2), ("Fighting003_x264", 7)):
        (tmp_path / "f/again").mkdir(exist_ok=True)
        for k in range(10): np.save(tmp_path / f"f/{name}__{k}.npy", np.zeros((T, 8), np.float32))
    r = pivad("dataset", "check", "ucf_crime", "--annotations", crimes / "a", "--features", tmp_path / "f")
    assert r.returncode == 1 and "Traceback" not in r.stderr
    assert sorted(line.split()[:2] for line in r.stdout.splitlines()[1:]) == [["duplicated", "again/Normal_Videos001_x264"], ["extra", "extra"], ["missing", "Abuse001_x264"],
                                                                              ["too", "short"], ["unreadable", "Arson011_x264"]]


def test_bad_videos_do_not_stop_the_rest(world, tmp_path):
    (tmp_path / "videos").mkdir()
    good = (world / "videos/v0.mp4").read_bytes()
    (tmp_path / "videos/good.mp4").write_bytes(good)
    (tmp_path / "videos/text.mp4").write_text("not a video")
    (tmp_path / "videos/half.mp4").write_bytes(good[: len(good) // 2])
    r = pivad("extract", tmp_path / "videos", "--out", tmp_path / "features", "--rgb", world / "i3d.safetensors", "--modalities", "flow")
    assert r.returncode == 1 and re.search(r"videos encoded +1 ", r.stdout) and re.search(r"failed +2\n", r.stdout)
    assert "text" in r.stdout and "half" in r.stdout and "Traceback" not in r.stderr
    assert [p.name for p in (tmp_path / "features").rglob("*.safetensors")] == ["good.safetensors"]


@pytest.mark.parametrize("args, code, message", [
    (["--help"], 0, "extract"),
    (["--version"], 0, "0."),
    (["extract", "--help"], 0, "--crops"),
    (["fly"], 2, "No such command"),
    (["extract", "nothing.mp4"], 2, "--out"),
    (["extract", "nothing.mp4", "--out", "features"], 1, "nothing.mp4"),
    (["extract", "empty", "--out", "features"], 1, "no videos"),
    (["extract", "v.mp4", "--out", "features", "--modalities", "smell"], 1, "unknown modality"),
    (["extract", "v.mp4", "--out", "features", "--crops", "3"], 2, "'3'"),
    (["dataset", "build", "ucf_krime"], 1, "unknown dataset"),
    (["dataset", "check", "d.csv", "--features", "empty"], 1, "d.csv"),
    (["dataset", "list"], 0, "ucf_crime: train 800 normal + 810 anomalous, test 150 + 140; 13 classes; features of 10 crops, 1024-d; 30 fps; AUC"),
    (["dataset", "check", "ucf_crime", "--features", "empty"], 1, "give --annotations"),
    (["dataset", "build", "ucf_crime", "--annotations", "empty"], 1, "no such file"),
    (["evaluate", "--dataset", "d.csv"], 2, "one of MODEL"),
    (["train", "--dataset", "d.csv", "--features", "empty", "--out", "run", "--learning-rate", "1"], 2, "--learning-rate"),
    (["train", "--dataset", "d.csv", "--features", "empty", "--out", "run", "--latent", "many"], 2, "not a valid integer"),
    (["train", "--help"], 0, "--warmup-lr FLOAT"),
    (["train", "--dataset", "none.csv", "--features", "empty", "--out", "run"], 1, "none.csv"),
    (["evaluate", "nowhere", "--dataset", "d.csv", "--features", "empty"], 2, "nowhere"),
    (["detect", "nothing.mp4", "--model", "empty"], 1, "nothing.mp4"),
])
def test_exit_codes(tmp_path, world, args, code, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "v.mp4").write_bytes((world / "videos/v0.mp4").read_bytes())
    r = pivad(*args, cwd=tmp_path)
    assert r.returncode == code, r.stdout + r.stderr
    assert message in r.stdout + r.stderr and "Traceback" not in r.stderr


def test_import_is_light():
    heavy = "torch transformers torchvision sklearn matplotlib seaborn pandas av cv2 accelerate"
    code = f"import sys, pivad, pivad.cli; print([m for m in {heavy.split()} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
