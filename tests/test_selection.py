"""Which model a run keeps: held-out videos stay out, looks are counted, and a killed run chooses the same."""
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch

from pivad.core import InputError, read_json
from pivad.evaluation import evaluate_scores, predict
from pivad.features import FeatureStore, write_features
from pivad.selection import SELECTIONS, hold_out, read_looks, selected, selection_table, train_selected
from pivad.training import load_model, make_config, read_tensors

SETTINGS = dict(modalities=["flow"], segments=8, batch_size=4, teacher_steps=12, warmup_steps=4, steps=16, save_every=5, lr=1e-3, device="cpu")
SCRIPT = f"""
import sys, pandas as pd
from pivad.features import FeatureStore
from pivad.selection import train_selected
from pivad.training import make_config
table = pd.read_pickle(sys.argv[1] + "/table.pkl")
parts = [table[table["split"] == s].reset_index(drop=True) for s in ("train", "test")]
train_selected(make_config(**{SETTINGS}), parts[0], FeatureStore(sys.argv[1] + "/features"), sys.argv[2], parts[1], held_out=0.3, every=3)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    "Thirty videos with a weak anomaly: 20 to train, 10 to test"
    folder, rows = tmp_path_factory.mktemp("selection"), []
    for i in range(30):
        g, label = np.random.default_rng(i), i % 2
        x = {"rgb": g.standard_normal((1, 10, 16)), "flow": g.standard_normal((10, 5))}
        if label:
            for k in x:
                x[k][..., 3:6, :3] += 1
        write_features(folder / f"features/v{i:02}.safetensors", x, {"n_frames": 160, "fps": 25.0, "tail": "drop", "crops": 1, "encoder": "made up"})
        rows.append({"video": f"v{i:02}", "split": "train" if i < 20 else "test", "label": label, "class": "", "n_frames": 160, "events": [[48, 96]] if label else []})
    pd.DataFrame(rows).to_pickle(folder / "table.pkl")
    return folder


@pytest.fixture(scope="module")
def parts(data):
    table = pd.read_pickle(data / "table.pkl")
    return *(table[table["split"] == s].reset_index(drop=True) for s in ("train", "test")), FeatureStore(data / "features")


@pytest.fixture(scope="module")
def run(data, parts, tmp_path_factory):
    training, test, store = parts
    return train_selected(make_config(**SETTINGS), training, store, tmp_path_factory.mktemp("run"), test, held_out=0.3, every=3)


def test_held_out_is_stratified_seeded_and_whole_sources():
    table = pd.DataFrame({"video": [f"v{i}" for i in range(100)], "label": [int(i % 4 == 0) for i in range(100)]})
    table["parts"] = [[v] for v in table["video"]]
    kept, held = hold_out(table, 0.2)
    assert len(held) == 20 and held["label"].sum() == 5 and not set(kept["video"]) & set(held["video"]) and len(kept) == 80
    assert hold_out(table, 0.2)[1]["video"].tolist() == held["video"].tolist() != hold_out(table, 0.2, seed=1)[1]["video"].tolist()
    assert len(hold_out(table, 0)[1]) == 0
    clips = table.assign(parts=[[f"c{i}", f"c{i+1}"] if i % 10 else [f"c{i}"] for i in range(100)])     # ten chains of videos that share clips
    kept, held = hold_out(clips, 0.3)
    assert len(held) and not {c for p in kept["parts"] for c in p} & {c for p in held["parts"] for c in p}
    with pytest.raises(InputError, match="share of held-out videos"):
        hold_out(table, 1.5)
    with pytest.raises(InputError, match="too few videos"):
        hold_out(table.assign(source="one"), 0.2)


def test_every_selection_is_what_it_says(run, parts):
    training, test, store = parts
    looks = pd.DataFrame(read_looks(run))
    assert looks.groupby("kind")["step"].apply(list).to_dict() == {"teacher": [3, 6, 9, 12], "student": [3, 6, 9, 12, 15, 16]}   # none in the warm-up
    for kind in ("teacher", "student"):
        part = looks[looks["kind"] == kind]
        for s, column in (("test", "test"), ("last", None)):
            model = load_model(selected(run, kind, s), "cpu")[0]
            auc = evaluate_scores(predict(model, test, store, "cpu"), test, n_bootstrap=0).metrics["AUC"]
            assert auc == (part[column].max() if column else part["test"].iloc[-1])
    table = selection_table(run, test, store, "cpu")
    assert table["looks at test"].tolist() == [0, 0, 4, 0, 0, 6]
    held = looks[looks["kind"] == "student"]
    assert table.loc[("student", SELECTIONS["held-out"]), "step"] == held.loc[held["held-out"] == held["held-out"].max(), "step"].max()   # of equal ones the later


def test_held_out_videos_are_not_trained_on(run, parts):
    training, test, store = parts
    info = read_json(run / "config.json")
    assert info["videos"] == len(hold_out(training, 0.3)[0]) == 14


def test_without_test_videos_nothing_looks_at_them(parts, tmp_path):
    training, _, store = parts
    run = train_selected(make_config(**SETTINGS), training, store, tmp_path / "run", None, held_out=0.3, every=8)
    assert all(x["test"] is None for x in read_looks(run)) and not selected(run, "student", "test").exists() and selected(run, "student", "held-out").exists()
    with pytest.raises(InputError, match="another selection"):
        train_selected(make_config(**SETTINGS), training, store, tmp_path / "run", None, held_out=0.3, every=4)


def test_looking_changes_nothing(run, parts, tmp_path):
    "The last step's weights do not depend on how often a run was looked at"
    training, _, store = parts
    other = train_selected(make_config(**SETTINGS), training, store, tmp_path / "run", None, held_out=0.3, every=1000)
    for kind in ("teacher", "student"):
        a, b = (read_tensors(selected(r, kind))[0] for r in (run, other))
        assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_killed_run_chooses_the_same(run, data, tmp_path):
    out = tmp_path / "run"
    for wait in (0.3, 1.0):
        p = subprocess.Popen([sys.executable, "-c", SCRIPT, str(data), str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        limit = time.time() + 120
        while not (out / "looks.json").is_file() and time.time() < limit:
            time.sleep(0.05)
        time.sleep(wait)
        if p.poll() is None:
            os.kill(p.pid, signal.SIGKILL)
        p.wait()
    subprocess.run([sys.executable, "-c", SCRIPT, str(data), str(out)], check=True, capture_output=True, timeout=300)
    assert read_looks(out) == read_looks(run)
    for kind in ("teacher", "student"):
        for s in SELECTIONS:
            a, b = (read_tensors(selected(r, kind, s))[0] for r in (run, out))
            assert all(torch.equal(a[k], b[k]) for k in a), (kind, s)
