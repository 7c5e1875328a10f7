"""Official annotation files: splits, classes, and the length of the truth in every lineage, counted."""
import numpy as np
import pytest

from pivad.benchmarks import BENCHMARKS, LINEAGES, count_frames, lineage_of, shanghaitech, ucf_crime, xd_violence
from pivad.core import InputError
from pivad.datasets import frame_truth, load_dataset


def counted(data):
    "(test frames, anomalous ones) by frame truth, not by the table's sums"
    truth = [frame_truth(r, r["n_frames"]) for _, r in data.test.iterrows()]
    return sum(map(len, truth)), int(sum(t.sum() for t in truth))


def split_sizes(data, split):
    t = data.table[data.table["split"] == split]
    return int((t["label"] == 0).sum()), int((t["label"] == 1).sum())


@pytest.fixture(scope="module")
def ucf(shared):
    return shared / "data/annotations/ucf_crime"


@pytest.fixture(scope="module")
def xd(shared):
    return shared / "data/annotations/xd_violence"


@pytest.mark.parametrize("lineage, frames", [("stretch", 1_111_808), ("drop", 1_109_824), ("pad", 1_114_144)])
def test_ucf_crime_lineages(ucf, lineage, frames):
    assert counted(ucf_crime(ucf, lineage=lineage))[0] == frames


def test_ucf_crime_as_annotated(ucf):
    data = load_dataset("ucf_crime", ucf, lineage="stretch")
    assert counted(data) == (1_111_808, 84_182)
    assert split_sizes(data, "train") == BENCHMARKS["ucf_crime"].train and split_sizes(data, "test") == BENCHMARKS["ucf_crime"].test
    assert (data.test["events"].map(len) == 2).sum() == 16
    assert data.test[data.test["label"] == 1]["class"].nunique() == 13


def test_ucf_crime_published_features(ucf):
    data = ucf_crime(ucf, ucf / "rocng_i3d_snippets.csv")
    assert counted(data) == (1_109_680, 84_128)


def test_xd_violence(xd):
    data = xd_violence(xd, xd / "i3d_snippets.csv")
    assert counted(data) == (2_330_384, 537_805)
    assert split_sizes(data, "test") == BENCHMARKS["xd_violence"].test


def test_xd_violence_training_labels(xd):
    from pivad.benchmarks import list_names, read_lines, xd_class

    train, test = (list_names(read_lines(xd / f"XD_{s}.list")) for s in ("Train", "Test"))
    assert len(train) == sum(BENCHMARKS["xd_violence"].train) and len(test) == 800
    assert sum(xd_class(v) == "Normal" for v in train) == BENCHMARKS["xd_violence"].train[0]


def test_shanghaitech(shared, tmp_path):
    root = shared / "data/annotations/shanghaitech/mist_with_n_frames"
    with pytest.raises(InputError, match="test_frame_mask"):
        shanghaitech(root)
    for line in (root / "SH_Test_NEW.txt").read_text().split():
        v, y, _ = line.split(",")
        if y == "1":
            np.save(tmp_path / f"{v}.npy", np.r_[np.zeros(50), np.ones(30), np.zeros(20)])
    data = shanghaitech(root, masks=tmp_path)
    assert split_sizes(data, "train") == BENCHMARKS["shanghaitech"].train and split_sizes(data, "test") == BENCHMARKS["shanghaitech"].test


def test_msad(shared, tmp_path):
    from pivad.benchmarks import msad

    root = shared / "data/annotations/msad"
    names = [line.split("/")[-1].strip().removesuffix("_i3d.npy") for line in (root / "msad-i3d-test.list").read_text().split()]
    rows = [f"{v},{320},{'' if 'normal' in v else '16-80'}" for v in names]
    (tmp_path / "truth.csv").write_text("video,n_frames,events\n" + "\n".join(rows))
    data = msad(root, tmp_path / "truth.csv")
    assert split_sizes(data, "train") == BENCHMARKS["msad"].train and split_sizes(data, "test") == BENCHMARKS["msad"].test


@pytest.mark.parametrize("n", [1, 15, 16, 17, 160, 1713])
def test_every_lineage_is_recognised(n):
    assert lineage_of(n, n // 16) == "drop" and (n % 16 == 0 or lineage_of(n, -(-n // 16)) == "pad")
    assert lineage_of(n, n // 16 + 2) == ""
    assert LINEAGES["drop"][0](n) <= LINEAGES["stretch"][0](n) <= LINEAGES["pad"][0](n) < n + 16


def test_wrong_features_are_named():
    with pytest.raises(InputError, match="(?s)video7.*12 snippets.*lineage of the features.*100 frames.*lineage drop"):
        count_frames(100, "features", 12, "video7")


def files(folder, annotation, train="Abuse/Abuse001_x264.mp4"):
    (folder / "UCF_Annotation.txt").write_text(annotation + "\n")
    (folder / "Anomaly_Train.txt").write_text(train + "\n")
    return folder


@pytest.mark.parametrize("annotation, message", [
    ("Abuse/Abuse028_x264.mp4 1412 Abuse 165", "cannot be read"),
    ("Abuse/Abuse028_x264.mp4 1412 Abuse 165 240 -1 -1\nAbuse/Abuse028_x264.mp4 1412 Abuse 165 240 -1 -1", "listed twice"),
    ("Abuse/Abuse028_x264.mp4 1412 Abuse 1500 1600 -1 -1", "no event"),
    ("Abuse/Abuse028_x264.mp4 1412 Abuse 300 400 100 200", "overlap or are out of order"),
    ("Normal_Videos_003_x264.mp4 1412 Normal 300 400 -1 -1", "label 0, but there are events"),
])
def test_bad_annotations(tmp_path, annotation, message):
    with pytest.raises(InputError, match=message):
        ucf_crime(files(tmp_path, annotation))


def test_missing_features_are_named(tmp_path):
    root = files(tmp_path, "Abuse/Abuse028_x264.mp4 1412 Abuse 165 240 -1 -1")
    with pytest.raises(InputError, match="(?s)1 of 1 videos have no features.*Abuse028_x264"):
        ucf_crime(root, {"Abuse030_x264": 88})


def test_published_features_in_place(tmp_path):
    "Ten crop files a video: found, measured by their headers, and the table follows their lengths"
    root = files(tmp_path, "Abuse/Abuse028_x264.mp4 1408 Abuse 165 240 -1 -1")
    for name, T in (("Abuse001_x264", 20), ("Abuse028_x264", 87)):
        for k in range(10):
            np.save(tmp_path / f"{name}__{k}.npy", np.zeros((T, 8), np.float32))
    data = ucf_crime(root, tmp_path)
    assert data.test["n_frames"].tolist() == [87 * 16] and data.train["n_frames"].tolist() == [320]
    (tmp_path / "Abuse028_x264__4.npy").unlink()
    with pytest.raises(InputError, match="missing crop 4"):
        ucf_crime(root, tmp_path)


def test_real_size_is_lazy(tmp_path):
    "1,900 videos with 10 crops: the table from headers alone, in seconds and without reading features"
    import resource
    import time

    names = [f"Abuse{i:04}_x264" for i in range(1900)]
    files(tmp_path, "\n".join(f"Abuse/{v}.mp4 1600 Abuse 165 240 -1 -1" for v in names[1610:]), "\n".join(f"Abuse/{v}.mp4" for v in names[:1610]))
    np.save(tmp_path / "one.npy", np.zeros((1, 1024), np.float32))
    header = (tmp_path / "one.npy").read_bytes()[:128].replace(b"(1, 1024)", b"(100, 1024)").replace(b"  \n", b"\n")
    (tmp_path / "one.npy").unlink()
    for v in names:
        for k in range(10):
            with open(tmp_path / f"{v}__{k}.npy", "wb") as f:
                f.write(header)
                f.truncate(len(header) + 100 * 1024 * 4)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    data = ucf_crime(tmp_path, tmp_path)
    seconds, mib = time.perf_counter() - start, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{seconds:.2f} s, {mib:.0f} MiB")  # no assertion on time: machines differ
    assert len(data.table) == 1900 and (data.table["n_frames"] == 1600).all()
    assert mib < 500
