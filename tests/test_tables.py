"""The notebooks of the paper's tables and figures, run by papermill on made-up features with very few steps."""
import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from conftest import ROOT
from pivad.core import InputError, rng
from pivad.datasets import save_table
from pivad.features import write_features
from pivad.runs import report, rerun
from pivad.selection import Looks
from pivad.study import Selecting, Study, Variant

EXPERIMENTS = ROOT / "nbs" / "experiments"
MODALITIES = {"pose": 5, "depth": 4, "panoptic": 4, "flow": 6, "text": 5}
BASE = dict(segments=8, batch_size=4, warmup_steps=2, steps=3, seeds=[0, 1])
ROWS = {   # notebook -> rows of its table, the paper's and those we add
    "beats_teacher": 6, "table1_sota": 3, "table2_msad": 3, "table3_components": 7, "table4_placement": 4, "table6_modalities": 10, "sensitivity": 11,
    "figure3_classwise": 2, "figure4_qualitative": 2, "figure5_single_modality": 6, "figure6_mixtures": 6,
}

SHORT = {"beats_teacher": {"teachers": {"UR-DMU": {}, "shorter": {"noise": False, "teacher_steps": 3}},
                            "students": {"as in the paper": {}, "longer": {"inject": "add", "warmup_steps": 4, "teacher_steps": 5}}}}   # what is long by default


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    "A dataset of two classes with features of five modalities"
    folder, rows = tmp_path_factory.mktemp("tables"), []
    for i in range(28):
        g, label = rng("tables", i), i % 2
        arrays = {"rgb": g.standard_normal((1, 12, 16))} | {k: g.standard_normal((12, d)) for k, d in MODALITIES.items()}
        if label:
            for x in arrays.values():
                x[..., 4:7, :3] += 2
        name = f"v{i:02}"
        write_features(folder / f"features/{name}.safetensors", arrays, {"n_frames": 192, "fps": 25.0, "tail": "drop", "crops": 1, "encoder": "made up"})
        rows.append([name, "train" if i < 16 else "test", label, ["Normal", "Fighting", "Normal", "Arson"][i % 4], 192, [[64, 112]] if label else []])
    save_table(pd.DataFrame(rows, columns=["video", "split", "label", "class", "n_frames", "events"]), folder / "toy.csv")
    return dict(dataset=str(folder / "toy.csv"), root="", features=str(folder / "features"), runs=str(folder / "runs")) | BASE


@pytest.mark.parametrize("name", sorted(ROWS))
def test_table(name, data, tmp_path):
    (job,) = rerun([name], data | SHORT.get(name, {}), EXPERIMENTS, tmp_path)
    assert job.state == "done", job.error
    result = json.loads(job.json.read_text())
    assert len(result["overall"]) == ROWS[name] and len(result["rows"]) == ROWS[name] * (1 if name == "figure4_qualitative" else 2)
    assert all(0 <= r[k] <= 100 for r in result["rows"] for k in ("AUC", "AUC_A", "AP", "AP_A"))


def test_training_size(data, tmp_path):
    (job,) = rerun(["training_size"], data | {"shares": [0.5, 1.0]}, EXPERIMENTS, tmp_path)
    assert job.state == "done", job.error
    result = json.loads(job.json.read_text())
    assert set(result["overall"]) == {"0.5", "1.0"} and {r["videos"] for r in result["rows"]} == {8, 16}


def test_cost(tmp_path):
    (job,) = rerun(["table5_cost"], {"repeats": 1}, EXPERIMENTS, tmp_path)
    assert job.state == "done", job.error
    counts = json.loads(job.json.read_text())["counts"]
    assert counts["π-VAD"]["M params, paper's way"] == pytest.approx(82.81, rel=0.01)
    assert counts["π-VAD"]["GFLOPs, paper's way"] == pytest.approx(19.88, rel=0.01)


def test_same_command_same_result(data, tmp_path):
    "Trained anew in two folders: the records are equal, byte for byte, apart from times"
    results = []
    for k in "ab":
        (job,) = rerun(["table4_placement"], data | {"runs": str(tmp_path / k)}, EXPERIMENTS, tmp_path / f"results_{k}", workers=1)
        record = json.loads(job.json.read_text())
        del record["seconds"]
        results.append(json.dumps(record))
    assert results[0] == results[1]


def test_killed_batch_continues(data, tmp_path):
    "kill -9 in the middle; the second start finds every training that was finished, and makes the rest"
    runs, out = tmp_path / "runs", tmp_path / "results"
    code = f"from pivad.runs import rerun; rerun(['table3_components'], {data | {'runs': str(runs)}!r}, {str(EXPERIMENTS)!r}, {str(out)!r})"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stderr=subprocess.DEVNULL)
    finished = lambda: sorted(runs.glob("*-*/scores-*.safetensors"))
    while len(finished()) < 4 and process.poll() is None:
        time.sleep(0.05)
    assert process.poll() is None, "over before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    time.sleep(0.5)
    before = {p: p.stat().st_mtime_ns for p in runs.glob("*-*/student.safetensors")}
    assert before and not list(out.glob("[!.]*"))
    (job,) = rerun(["table3_components"], data | {"runs": str(runs)}, EXPERIMENTS, out)
    assert job.state == "done" and len(json.loads(job.json.read_text())["rows"]) == 14
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())


def test_unknown_parameter(data):
    with pytest.raises(InputError, match="unknown parameter.*'seed'"):
        rerun(["table4_placement"], data | {"seed": 3}, EXPERIMENTS)


def test_report_of_the_repository_s_results(tmp_path):
    "Every kind of record that the experiments write finds its place on the page"
    page = report(ROOT / "results", tmp_path / "report.md").read_text()
    records = [p.stem for p in (ROOT / "results").glob("*.json") if "overall" in json.loads(p.read_text())]
    assert all(f"\n## {name}\n" in page for name in records) and "## Beside the paper" in page


def test_half_trained_teacher_serves_another_student(data, tmp_path, monkeypatch):
    "A student's settings are no part of its teacher: who comes after an interrupted training goes on with it"
    base = dict(modalities=list(MODALITIES), segments=8, batch_size=4, warmup_steps=2, steps=3, teacher_steps=4)
    study = Study(data["dataset"], data["features"], base, str(tmp_path), seeds=(0,), device="cpu", selecting=Selecting(0.3, 2))

    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(Looks, "__call__", stop)
        with pytest.raises(KeyboardInterrupt):
            study.train([Variant("a")])
    assert [p.name.split("-")[0] for p in tmp_path.iterdir() if p.is_dir()] == ["teacher"]
    study.train([Variant("b", {"warmup_steps": 3, "modalities": ["pose"]})])
    assert sorted(p.name.split("-")[0] for p in tmp_path.iterdir() if p.is_dir()) == ["student", "teacher"]
