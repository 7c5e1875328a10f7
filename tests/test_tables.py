"""The notebooks of the paper's tables and figures, run by papermill on made-up features with very few steps."""
import json
import sys

import pandas as pd
import pytest

from conftest import ROOT
from pivad.core import InputError, rng
from pivad.datasets import save_table
from pivad.features import write_features
from pivad.runs import rerun

EXPERIMENTS = ROOT / "nbs" / "experiments"
MODALITIES = {"pose": 5, "depth": 4, "panoptic": 4, "flow": 6, "text": 5}
BASE = dict(segments=8, batch_size=4, warmup_steps=2, steps=3, seeds=[0, 1])
ROWS = {   # notebook -> rows of its table, the paper's and those we add
    "table3_components": 7, "table4_placement": 4, "table6_modalities": 10,
}


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
    (job,) = rerun([name], data, EXPERIMENTS, tmp_path)
    assert job.state == "done", job.error
    result = json.loads(job.json.read_text())
    assert len(result["overall"]) == ROWS[name] and len(result["rows"]) == 2 * ROWS[name]
    assert all(0 <= r[k] <= 100 for r in result["rows"] for k in ("AUC", "AUC_A", "AP", "AP_A"))
