"""Extraction as Ray tasks on a local cluster of two workers: a killed worker is replaced, and nothing is written twice."""
import os
import subprocess
import sys

import pytest

from pivad.core import InputError
from pivad.distributed import divide, join_cluster

SCRIPT = '''
import os, signal, sys, time
from pathlib import Path
import numpy as np
from pivad.core import InputError
from pivad.distributed import extract_ray
from pivad.features import extract
folder = Path(sys.argv[1])

class Mean:
    "Mean colours; notes every snippet it encodes, and kills its own process once, in the middle of a video"
    name, dim, sha256 = "mean", 3, ""
    def __init__(self, log): self.log = log
    def __call__(self, snippets, crops=1, batch_size=8):
        if self.log:
            with open(self.log, "a") as f: f.writelines(f"{os.getpid()} {s.mean():.6f}\\n" for s in snippets)
            if not Path(self.log + ".killed").exists() and len(open(self.log).readlines()) > 20:
                Path(self.log + ".killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.05)
        return np.stack([[s.mean((0, 1, 2)) / 255 for s in snippets]] * crops)

settings = dict(modalities=["panoptic"], every=4, batch_size=2, progress=False)
try: summary = extract_ray(folder / "clips", folder / "out", workers=2, rgb=Mean(str(folder / "log")), **settings)
except InputError as e:
    print("NO RAY", e); sys.exit(0)
print("first", summary.done, summary.skipped, len(summary.failed))
extract(folder / "clips", folder / "alone", rgb=Mean(""), **settings)
try: extract_ray(folder / "clips", folder / "out", workers=2, rgb=Mean(""), crops=5, **settings)
except InputError as e: print("refused:", str(e).splitlines()[0])
'''


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "The script's folder and what it said"
    import numpy as np
    from pivad.video import write_video

    pytest.importorskip("ray", reason="Ray is not installed (extra: ray)")
    folder = tmp_path_factory.mktemp("ray")
    for i in range(8):
        write_video(folder / f"clips/cam{i}.mp4", np.random.default_rng(i).integers(0, 256, (16 * 10, 48, 64, 3), np.uint8))
    env = os.environ | {"OMP_NUM_THREADS": "1", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    try:
        r = subprocess.run([sys.executable, "-c", SCRIPT, str(folder)], capture_output=True, text=True, timeout=240, env=env, cwd=folder)
    except subprocess.TimeoutExpired:
        pytest.skip("Ray did not start and finish within 240 s on this machine")
    if "NO RAY" in r.stdout:
        pytest.skip("Ray cannot start here: " + r.stdout.splitlines()[-1])
    assert r.returncode == 0, r.stdout + r.stderr
    return folder, r.stdout


def test_a_killed_worker_is_replaced(run):
    folder, said = run
    assert (folder / "log.killed").exists()
    _, done, skipped, failed = next(line for line in said.splitlines() if line.startswith("first")).split()
    assert failed == "0" and int(done) + int(skipped) == 8  # what the killed one had finished is skipped by its successor
    assert len({line.split()[0] for line in (folder / "log").read_text().splitlines()}) == 3  # two workers, and the one that came after


def test_files_are_those_of_a_run_without_ray(run):
    folder, _ = run
    names = sorted(p.name for p in (folder / "alone").rglob("*") if p.is_file())
    assert names == sorted(p.name for p in (folder / "out").rglob("*") if p.is_file()) and len(names) == 8
    assert all((folder / "out" / n).read_bytes() == (folder / "alone" / n).read_bytes() for n in names)


def test_nothing_is_done_twice_but_the_killed_ones_last_part(run):
    folder, _ = run
    encoded = len((folder / "log").read_text().splitlines())
    assert 80 <= encoded <= 80 + 4 + 2  # 8 videos of 10 snippets; at most `every` snippets and the batch in hand are lost


def test_other_settings_are_one_error_as_without_ray(run):
    assert any(line.startswith("refused:") and "made with other settings" in line for line in run[1].splitlines()), run[1]


def test_no_cluster_is_one_error():
    pytest.importorskip("ray", reason="Ray is not installed (extra: ray)")
    with pytest.raises(InputError, match="no cluster at"):
        join_cluster("nonsense://nowhere")


def test_division_covers_everything_once():
    for n, workers in ((0, 2), (1, 8), (100, 3), (5000, 2)):
        parts = divide(list(range(n)), workers)
        assert sorted(v for p in parts for v in p) == list(range(n)) and all(parts) and max(map(len, parts), default=0) <= 32


def test_gpus_without_ray_is_refused(tmp_path):
    r = subprocess.run([sys.executable, "-m", "pivad.cli", "extract", str(tmp_path), "--out", str(tmp_path / "o"), "--gpus", "0.5"], capture_output=True, text=True, timeout=120)
    assert r.returncode == 2 and "--gpus goes with --ray" in r.stderr
