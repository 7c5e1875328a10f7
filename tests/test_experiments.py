"""The experiment notebooks, run by papermill with small parameters."""
import json

import numpy as np
import pytest

from conftest import ROOT
from pivad.core import rng
from pivad.features import write_features

EXPERIMENTS = ROOT / "nbs" / "experiments"


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    "An imitation of the fight-detection-surv-dataset repository: its list of clips, and made-up features of them"
    folder, lines, n = tmp_path_factory.mktemp("clone"), [], {"fi": 0, "nofi": 0}
    for source in range(10):
        lines.append(f"https://video.example/{source}")
        for k, prefix in enumerate(["fi", "nofi", "nofi"]):
            n[prefix] += 1
            clip = f"{prefix}{n[prefix]:03}"
            lines.append(f"{clip}: 0.{10 * k:02}.00 - 0.{10 * k + 3:02}.00")
            g, kind = rng(clip), "fight" if prefix == "fi" else "noFight"
            arrays = {"rgb": g.standard_normal((1, 3, 16)), "flow": g.standard_normal((3, 6)), "panoptic": g.standard_normal((3, 4))}
            if prefix == "fi":
                for x in arrays.values():
                    x[..., :3] += 2
            write_features(folder / f"features/{kind}/{clip}.safetensors", arrays, {"n_frames": 50, "fps": 25.0, "tail": "drop", "crops": 1, "encoder": "made up"})
    (folder / "videos.txt").write_text("\n".join(lines))
    return folder


def test_first_run(clone, tmp_path):
    import papermill

    parameters = dict(root=str(clone), features=str(clone / "features"), modalities=["flow", "panoptic"], folds=[0, 1], seeds=[0, 1], segments=8, batch_size=4, steps=6, warmup_steps=3, out=str(tmp_path / "run"))
    known = papermill.inspect_notebook(str(EXPERIMENTS / "first_run.ipynb"))
    assert set(parameters) <= set(known)
    papermill.execute_notebook(str(EXPERIMENTS / "first_run.ipynb"), str(tmp_path / "out.ipynb"), parameters=parameters, cwd=str(EXPERIMENTS), progress_bar=False)
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert len(results["rows"]) == 2 * 2 * 2 and results["selection"] == "last step"
    values = np.array([[row[k] for k in ("AUC", "AUC_A", "AP", "AP_A")] for row in results["rows"]], float)
    assert ((0 <= values) & (values <= 100)).all()
    assert set(results["overall"]) == {"UR-DMU", "π-VAD", "difference", "π-VAD better"}


def test_parameters_are_tagged():
    "Without the tag, papermill would put its parameters on top and the defaults would win"
    notebooks = sorted(EXPERIMENTS.glob("*.ipynb"))
    assert notebooks
    for path in notebooks:
        assert sum("parameters" in c["metadata"].get("tags", []) for c in json.loads(path.read_text())["cells"]) == 1, path.name
