"""Training survives kill -9, and bad checkpoints are named."""
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch

from pivad.core import InputError
from pivad.features import FeatureStore, write_features
from pivad.training import load_model, make_config, read_tensors, train

SCRIPT = """
import sys, pandas as pd
from pivad.features import FeatureStore
from pivad.training import make_config, train
table = pd.read_pickle(sys.argv[1] + "/table.pkl")
train(make_config(segments=8, batch_size=4, teacher_steps=12, warmup_steps=12, steps=12, save_every=4), table, FeatureStore(sys.argv[1] + "/features"), sys.argv[2])
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    "Eight videos of random features, and their table"
    folder, rows = tmp_path_factory.mktemp("data"), []
    for i in range(8):
        g = np.random.default_rng(i)
        arrays = {"rgb": g.standard_normal((1, 10, 24)), "flow": g.standard_normal((10, 6)), "panoptic": g.standard_normal((10, 4))}
        write_features(folder / f"features/v{i}.safetensors", arrays, {"n_frames": 160, "fps": 25.0, "tail": "drop", "crops": 1, "encoder": "random"})
        rows.append({"video": f"v{i}", "split": "train", "label": i % 2, "class": "", "n_frames": 160, "events": []})
    pd.DataFrame(rows).to_pickle(folder / "table.pkl")
    return folder


def run(data, out):
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(data), str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def small(**options):
    return make_config(**dict(segments=8, batch_size=4, teacher_steps=2, warmup_steps=2, steps=2, save_every=10) | options)


def pieces(data):
    return pd.read_pickle(data / "table.pkl"), FeatureStore(data / "features")


def test_kill_and_resume(data, tmp_path):
    assert run(data, tmp_path / "whole").wait(timeout=600) == 0
    for stage in ("teacher", "warmup", "main"):  # kill -9 as soon as each stage has its first checkpoint
        process = run(data, tmp_path / "broken")
        while process.poll() is None and not (tmp_path / "broken/checkpoints" / f"{stage}.safetensors").exists():
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "broken/student.safetensors").exists()
    assert run(data, tmp_path / "broken").wait(timeout=600) == 0
    for name in ("teacher.safetensors", "student.safetensors", "history.csv", "config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes(), name
    assert not [p for p in (tmp_path / "broken").rglob(".*") if p.suffix == ".json"]


@pytest.mark.parametrize("options", [dict(inject="add", noise=False), dict(source="real"), dict(place=("late",), first_distill=0.0, lambda_2=0.0), dict(decoupled=False, workers=1)], ids=str)
def test_variants_train(data, tmp_path, options):
    table, store = pieces(data)
    model, info = load_model(train(small(**options), table, store, tmp_path / "run"), "cpu")
    x, real = torch.rand(1, 1, 10, 24), {"flow": torch.rand(1, 10, 6), "panoptic": torch.rand(1, 10, 4)}
    scores = (model(x, real) if model.needs_modalities else model(x)).scores
    assert scores.shape == (1, 10) and scores.isfinite().all()


def test_rate_of_the_warmup_and_width_of_the_latent_space(data, tmp_path):
    "At rate 0 the warm-up leaves the weights as they began; stage 2 has its own rate; PMG is as wide as asked for"
    table, store = pieces(data)
    warm = small(warmup_lr=0.0, latent=48, weight_decay=0.0)
    still, moved = (read_tensors(train(c, table, store, tmp_path / n, stages=s) / "student.safetensors")[0] for n, c, s in (("a", warm, ("warmup",)), ("b", warm, ("warmup", "main"))))
    other = read_tensors(train(small(latent=48, weight_decay=0.0), table, store, tmp_path / "c", stages=("warmup",)) / "student.safetensors")[0]
    weight = "inductors.early.pmg.encode.weight"
    assert still[weight].shape[0] == 48 and not torch.equal(still[weight], moved[weight]) and not torch.equal(still[weight], other[weight])
    fresh = read_tensors(train(small(latent=48, warmup_lr=0.0, warmup_steps=1), table, store, tmp_path / "d", stages=("warmup",)) / "student.safetensors")[0]
    assert torch.equal(still[weight], fresh[weight])


def test_bf16_autocast(data, tmp_path):
    table, store = pieces(data)
    run = train(small(mixed_precision="bf16", device="cpu"), table, store, tmp_path / "run")
    losses = pd.read_csv(run / "history.csv")["loss"]
    exact = pd.read_csv(train(small(device="cpu"), table, store, tmp_path / "exact") / "history.csv")["loss"]
    assert not losses.equals(exact) and np.allclose(losses, exact, rtol=0.1)


def test_given_teacher_is_used(data, tmp_path):
    table, store = pieces(data)
    first = train(small(), table, store, tmp_path / "first", stages=("teacher",))
    assert not (first / "student.safetensors").exists()
    second = train(small(), table, store, tmp_path / "second", teacher=first / "teacher.safetensors")
    a, b = (read_tensors(r / "teacher.safetensors")[0] for r in (first, second))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert set(pd.read_csv(second / "history.csv")["stage"]) == {"warmup", "main"}


def test_checkpoint_of_another_shape(data, tmp_path):
    table, store = pieces(data)
    teacher = train(small(), table, store, tmp_path / "run", stages=("teacher",)) / "teacher.safetensors"
    with pytest.raises(InputError, match="(?s)teacher.safetensors: these weights do not fit URDMU.*found.*expected"):
        train(small(preset="paper"), table, store, tmp_path / "other", teacher=teacher)


def test_broken_checkpoint(data, tmp_path):
    table, store = pieces(data)
    out = train(small(), table, store, tmp_path / "run")
    path = out / "student.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="student.safetensors: not a whole safetensors file"):
        load_model(out)
    with pytest.raises(InputError, match="no such file"):
        load_model(tmp_path / "nothing")


@pytest.mark.parametrize("options, message", [
    (dict(modalities=["poes"]), "unknown modality"),
    (dict(preset="large"), "unknown preset"),
    (dict(segments=1), "segments too small"),
    (dict(place=("middle",)), "unknown stage"),
    (dict(mixed_precision="fp8"), "unknown mixed precision"),
    (dict(device="gpu"), "unknown device"),
])
def test_bad_settings(data, tmp_path, options, message):
    table, store = pieces(data)
    with pytest.raises(InputError, match=message):
        train(small(**options), table, store, tmp_path / "run")


def test_diverging_run_says_so(data, tmp_path):
    table, store = pieces(data)
    with pytest.raises(InputError, match="stage 'teacher': the"):
        train(small(lr=1e30, teacher_steps=20), table, store, tmp_path / "run")


def test_two_processes_share_the_batch(data, tmp_path):
    table, _ = pieces(data)
    table.assign(events="").to_csv(tmp_path / "data.csv", index=False)
    options = "--segments 8 --batch-size 4 --teacher-steps 3 --warmup-steps 2 --steps 2 --device cpu".split()
    args = ["-m", "pivad.cli", "train", "--dataset", tmp_path / "data.csv", "--features", data / "features", *options]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([*map(str, [sys.executable, *args, "--out", tmp_path / "one"])], check=True, timeout=600)
    subprocess.run([*map(str, [*launch, *args, "--out", tmp_path / "two"])], check=True, timeout=600, env=os.environ | {"OMP_NUM_THREADS": "1"})
    one, two = (pd.read_csv(tmp_path / n / "history.csv") for n in ("one", "two"))
    assert len(one) == len(two) == 7 and not one["loss"].equals(two["loss"])  # dropout differs, so the losses do
    assert np.allclose(one["loss"], two["loss"], rtol=0.15)


def test_a_stage_without_loss_is_refused(data, tmp_path):
    "Adam's weight decay would move the weights all the same"
    table, store = pieces(data)
    nothing = dict(pmg=0.0, first_align=0.0, first_distill=0.0, lambda_1=0.0, lambda_2=0.0)
    with pytest.raises(InputError, match="stage 'warmup' has no loss"):
        train(small(**nothing), table, store, tmp_path / "run")
    run = train(small(**nothing, warmup_steps=0), table, store, tmp_path / "control")  # the architecture alone
    assert "pmg" not in pd.read_csv(run / "history.csv")
