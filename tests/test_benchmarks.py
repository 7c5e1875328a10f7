"Official annotation files, lineages, published .npy features, and one clear error for each known mistake."
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from pivad.benchmarks import BENCHMARKS, LISTS, check_dataset, lineage_truth, listed, read_ucf, xd_class
from pivad.core import InputError
from pivad.datasets import load_dataset, load_table
from pivad.evaluation import evaluate_scores
from pivad.npy_features import NpyStore, open_store
from pivad.scores import check_truth, match_truth, ordered, read_scores


def total(truth):
    return sum(map(len, truth.values())), int(sum(t.sum() for t in truth.values()))


# --- the official files ---

@pytest.fixture(scope="module")
def annotations(shared):
    return shared / "data/annotations"


def test_ucf_crime_lineages(annotations):
    data = load_dataset("ucf_crime", root=annotations / "ucf_crime")
    assert len(data.test) == 290 and (data.test["events"].map(len) == 2).sum() == 16
    assert sum("clipped" in n for n in data.notes) == 5
    assert {k: total(lineage_truth(data.table, k)) for k in ("frames", "pad", "drop", "rtfm")} == {
        "frames": (1111808, 84182), "pad": (1111808, 84182), "drop": (1109824, 84160), "rtfm": (1114144, 84182)}


def test_ucf_crime_with_published_lengths(annotations):
    path = annotations / "ucf_crime/rocng_i3d_snippets.csv"
    data = load_dataset("ucf_crime", root=annotations / "ucf_crime", lengths=path)
    snippets = pd.read_csv(path).set_index("video")["snippets"]
    assert set(data.test["lineage"]) == {"roc-ng"}
    assert total(lineage_truth(data.table, "roc-ng", snippets)) == (1109680, 84128)
    result = evaluate_scores({v: np.linspace(0, 1, k) for v, k in snippets.items()}, data.test, n_bootstrap=0)
    assert (result.protocol["frames"], result.protocol["anomalous_frames"], result.protocol["tail"]) == (1109680, 84128, "roc-ng")


def test_both_ucf_annotation_files_agree(annotations):
    a, b = (read_ucf(annotations / f"ucf_crime/{f}.txt") for f in ("UCF_Annotation", "Temporal_Anomaly_Annotation"))
    assert {k: v[1:] for k, v in a.items()} == {k: v[1:] for k, v in b.items()}


def test_xd_violence(annotations):
    data = load_dataset("xd_violence", root=annotations / "xd_violence", lengths=annotations / "xd_violence/i3d_snippets.csv")
    assert len(data.test) == 800 and total(lineage_truth(data.table, "drop")) == (2330384, 537805)


@pytest.mark.parametrize("name", ["ucf_crime", "xd_violence", "msad", "shanghaitech"])
def test_splits_are_as_recorded(annotations, name, tmp_path):
    from pivad.benchmarks import read_names, stem
    files = {"ucf_crime": "Anomaly_{}.txt", "xd_violence": "XD_{}.list"}.get(name)
    if files: names = [stem(x) for s in ("Train", "Test") for x in read_names(annotations / name / files.format(s))]
    elif name == "msad": names = [stem(x) for f in ("msad-i3d.list", "msad-i3d-test.list") for x in (annotations / name / f).read_text().split()]
    else: names = [x.split(",")[0] for f in ("SH_Train_new.txt", "SH_Test_NEW.txt") for x in (annotations / name / "mist_with_n_frames" / f).read_text().split()]
    lengths = dict.fromkeys(names, 64)
    if name == "ucf_crime": lengths |= {v: n for v, (n, _, _) in read_ucf(annotations / name / "UCF_Annotation.txt").items()}
    if name == "xd_violence": lengths |= {v: 16*k for v, k in pd.read_csv(annotations / name / "i3d_snippets.csv").values}
    if name == "shanghaitech": lengths |= {v: 5000 for v in names}
    pd.DataFrame(lengths.items(), columns=["video", "n_frames"]).to_csv(tmp_path / "lengths.csv", index=False)
    data, b = load_dataset(name, root=annotations / name, lengths=tmp_path / "lengths.csv"), BENCHMARKS[name]
    for t, expected in ((data.train, b.train), (data.test, b.test)):
        assert tuple((t["label"] == k).sum() for k in (0, 1)) == expected
    kinds = {k for c in data.table["class"] for k in c.split("+")} - {"Normal"}
    assert kinds == set(b.classes) and set(data.test["fps"] if "fps" in data.test else [np.nan]) == ({b.fps} if b.fps == b.fps else {np.nan})
    if name in ("msad", "shanghaitech"):
        assert (data.test["truth"] == "video").sum() == b.test[1]
        with pytest.raises(InputError, match="the truth of its frames is unknown"):
            evaluate_scores({r["video"]: np.zeros(r["n_frames"] // 16) for _, r in data.test.iterrows()}, data.test)


@pytest.mark.parametrize("n, unit", [(69355, "snippet"), (1109680, "frame")])
def test_one_array_of_the_published_lineage(annotations, tmp_path, n, unit):
    "Without the features' lengths no rule says which nine videos are shorter; with them the array is cut exactly"
    path = annotations / "ucf_crime/rocng_i3d_snippets.csv"
    snippets = pd.read_csv(path).set_index("video")["snippets"]
    given = load_dataset("ucf_crime", root=annotations / "ucf_crime", lengths=path).test
    flat = np.concatenate([np.full(snippets[v], i / 290) for i, v in enumerate(given["video"])])
    np.save(tmp_path / "flat.npy", flat if unit == "snippet" else flat.repeat(16))
    scores, lineage = read_scores(tmp_path / "flat.npy", given)
    assert lineage == "roc-ng" and all((s == i / 290).all() and len(s) == snippets[v] for i, (v, s) in enumerate(scores.items()))
    with pytest.raises(InputError, match=f"(?s)scores {n:,}: roc-ng.*give the features or a list of their lengths"):
        read_scores(tmp_path / "flat.npy", load_dataset("ucf_crime", root=annotations / "ucf_crime").test)
    assert evaluate_scores(scores, given, tail="drop", n_bootstrap=0).protocol["frames"] == 1109680      # "drop", as a model of such features says
    truth = np.concatenate(list(lineage_truth(given, "roc-ng").values()))
    assert check_truth(truth, given) == "roc-ng" and truth.sum() == 84128
    rtfm = np.concatenate(list(lineage_truth(given, "rtfm").values()))
    np.save(tmp_path / "gt.npy", rtfm)
    with pytest.raises(InputError, match="(?s)truth 1,114,144: rtfm.*scores 1,109,680: roc-ng"):
        match_truth(tmp_path / "gt.npy", scores, given, lineage)


def test_both_forms_of_shanghaitech(annotations, tmp_path):
    for f in ("SH_Train.txt", "SH_Test.txt"): (tmp_path / f).write_bytes((annotations / "shanghaitech" / f).read_bytes())
    a, b = (listed("shanghaitech", x).set_index("video") for x in (annotations / "shanghaitech", tmp_path))
    assert len(a) == len(b) == 437 and a[["split", "label"]].sort_index().equals(b[["split", "label"]].sort_index())
    assert a["n_frames"].notna().sum() == 155                            # the lists know the lengths of normal test videos
    for text, words in (("01_001,1,764", "line 1: not understood"), ("01_01", "line 1: not understood"), ("01_001\n01_001", "listed twice")):
        (tmp_path / "SH_Test.txt").write_text(text)
        with pytest.raises(InputError, match=words): listed("shanghaitech", tmp_path)


def test_masks_and_labels_of_shanghaitech_and_msad_must_agree(tmp_path):
    (tmp_path / "SH_Train.txt").write_text("01_002\n"); (tmp_path / "SH_Test.txt").write_text("01_001\n01_0015\n")
    (tmp_path / "test_frame_mask").mkdir()
    for name, mask in (("01_001", np.ones(50)), ("01_0015", np.zeros(50))):
        np.save(tmp_path / f"test_frame_mask/{name}.npy", mask)
        with pytest.raises(InputError, match=f"{name}: label and events contradict"): listed("shanghaitech", tmp_path)
        (tmp_path / f"test_frame_mask/{name}.npy").unlink()
    (tmp_path / "msad-i3d.list").write_text("MSAD_normal_park1_i3d.npy\n"); (tmp_path / "msad-i3d-test.list").write_text("Assault_2_i3d.npy\nMSAD_normal_testing_1_i3d.npy\n")
    head = "name,scenario,total frames,starting frame of anomaly,ending frame of anomaly\n"
    (tmp_path / "anomaly_annotation.csv").write_text(head + "Assault_2,shop,400,101,200\nAssault_2,shop,400,1,50\n")
    assert listed("msad", tmp_path).set_index("video")["events"]["Assault_2"] == [[0, 50], [100, 200]]
    (tmp_path / "anomaly_annotation.csv").write_text(head + "MSAD_normal_testing_1,shop,400,101,200\n")
    with pytest.raises(InputError, match="label and events contradict"): listed("msad", tmp_path)
    (tmp_path / "anomaly_annotation.csv").write_text(head + "Assault_2,shop,400,x,200\n")
    with pytest.raises(InputError, match="line 2: not understood"): listed("msad", tmp_path)


def test_ped2_from_the_official_files_is_the_list(shared, tmp_path):
    "UCSDped2.m and folders of frames, written from the list, give the same table"
    t = pd.read_csv(shared / "data/ucsd_ped2/videos.csv")
    for v, n in zip(t["video"], t["n_frames"]):
        (tmp_path / v[:-3] / v).mkdir(parents=True)
        for i in range(n): (tmp_path / v[:-3] / v / f"{i + 1:03}.tif").touch()
    ranges = t.loc[t["label"] == 1, "gt_frames_1based"]
    (tmp_path / "Test/UCSDped2.m").write_text("TestVideoFile = {};\n% TestVideoFile{end+1}.gt_frame = [1:2];\n" + "".join(f"TestVideoFile{{end+1}}.gt_frame = [{r}];\n" for r in ranges))
    a, b = (load_dataset("ucsd_ped2", root=x).table.sort_values("video").reset_index(drop=True) for x in (shared / "data/ucsd_ped2", tmp_path))
    assert a.equals(b) and len(a) == 28
    record = BENCHMARKS["ucsd_ped2"]
    assert [tuple(((a["split"] == s) & (a["label"] == k)).sum() for k in (0, 1)) for s in ("train", "test")] == [record.train, record.test]
    (tmp_path / "Test/UCSDped2.m").write_text("TestVideoFile{end+1}.gt_frame = [60:152];\n" * 36)
    with pytest.raises(InputError, match="not UCSD Ped2's annotation"): load_dataset("ucsd_ped2", root=tmp_path)


@pytest.mark.parametrize("file, text, message", [
    ("TAD_test.txt", "frames/normal/Normal_008.mp4 77 1 0 77", "line 1: label and events contradict"),
    ("TAD_test.txt", "frames/abnormal/01_Accident_006.mp4 266 0 75 110", "line 1: label and events contradict"),
    ("TAD_test.txt", "frames/abnormal/01_Accident_006.mp4 266 1 75", "line 1: not understood"),
    ("TAD_test.txt", "frames/abnormal/01_Accident_006.mp4 266 9 75 110", "line 1: not understood"),
    ("TAD_test.txt", "frames/abnormal/01_Accident_006.mp4 266 1 275 310", "01_Accident_006: event beyond the end"),
    ("TAD_test.txt", "frames/abnormal/01_Accident_001.mp4 266 1 75 110", "video is listed twice"),
    ("TAD_train.txt", "frames/abnormal/01_Accident_001.mp4 0 1", "line 1: not understood"),
])
def test_tad_errors(tmp_path, file, text, message):
    (tmp_path / "TAD_train.txt").write_text("frames/abnormal/01_Accident_001.mp4 0 224 1\nframes/normal/Normal_001.mp4 0 141 0\n")
    (tmp_path / "TAD_test.txt").write_text("frames/abnormal/01_Accident_006.mp4 266 1 75 110\nframes/normal/Normal_008.mp4 77 0 0 77\n")
    assert load_dataset("tad", root=tmp_path).test["class"].tolist() == ["Accident", "Normal"]
    (tmp_path / file).write_text(text + "\n")
    with pytest.raises(InputError, match=message): load_dataset("tad", root=tmp_path)


def test_avenue_errors_and_names(tmp_path):
    from scipy.io import savemat
    with pytest.raises(InputError, match="no label masks"): load_dataset("cuhk_avenue", root=tmp_path)
    masks = np.empty((1, 48), object)
    for i in range(48): masks[0, i] = np.full((2, 2), i < 20, np.uint8)
    savemat(tmp_path / "1_label.mat", {"volLabel": masks})
    for folder in ("training_videos", "testing_videos"): write_crops(tmp_path / "features" / folder, "01", 3)
    for i in range(2, 17): write_crops(tmp_path / "features/training_videos", f"{i:02}", 3)
    data = load_dataset("cuhk_avenue", root=tmp_path, features=tmp_path / "features")
    assert len(data.train) == 16 and data.test["events"].tolist() == [[[0, 20]]] and data.test["lineage"].tolist() == ["drop"]
    assert not len(check_dataset(data.table, open_store(tmp_path / "features")))
    for f in (tmp_path / "features/testing_videos").iterdir(): f.unlink()
    assert check_dataset(data.table, open_store(tmp_path / "features")).values.tolist() == [["missing", "testing_videos/01", "testing_videos/01"]]
    (tmp_path / "1_label.mat").write_bytes(b"no Matlab file" * 20)
    with pytest.raises(InputError, match="1_label.mat: cannot be read"): load_dataset("cuhk_avenue", root=tmp_path)


def test_features_are_checked_without_known_lengths(annotations, tmp_path):
    "XD-Violence's annotation has no lengths, UCF-Crime's none of training videos: names are checked all the same"
    names = listed("xd_violence", annotations / "xd_violence")
    for v in names["video"][::400]: np.save(tmp_path / f"{v}__0.npy", np.zeros((400, 2), np.float32))
    short = names[names["events"].map(len) > 0].iloc[0]
    np.save(tmp_path / f"{short['video']}__0.npy", np.zeros((1, 2), np.float32))
    np.save(tmp_path / "elsewhere__0.npy", np.zeros((1, 2), np.float32))
    found = check_dataset(names, open_store(tmp_path))
    assert found["problem"].value_counts().to_dict() == {"missing": 4754 - len(names[::400]) - 1, "too short": 1, "extra": 1}
    assert listed("ucf_crime", annotations / "ucf_crime")["n_frames"].isna().sum() == 1610


def test_every_benchmark_has_a_record_and_a_list():
    assert set(LISTS) == set(BENCHMARKS) and len(LISTS) == 7
    assert all(b.citation and b.url.startswith("http") and b.classes and b.metric in ("AUC", "AP") for b in BENCHMARKS.values())


# --- published features ---

SCRIPT = """
import sys, time, tracemalloc
from pivad.datasets import load_dataset
from pivad.npy_features import open_store
tracemalloc.start()   # what Python and numpy allocate; the peak of the whole process would hold the parent's, from before exec
start = time.perf_counter()
store = open_store(sys.argv[2])
data = load_dataset("ucf_crime", root=sys.argv[1], features=store)
print(len(data.train), len(data.test), data.test["lineage"].iloc[0], time.perf_counter() - start, tracemalloc.get_traced_memory()[1] / 1e6)
"""


def test_1900_videos_with_ten_crops_load_lazily(annotations, tmp_path):
    "Real sizes as sparse files: 19,000 files, 1,024 dimensions; nothing but headers is read"
    from pivad.benchmarks import read_names, stem
    snippets = pd.read_csv(annotations / "ucf_crime/rocng_i3d_snippets.csv").set_index("video")["snippets"].to_dict()
    r = np.random.default_rng(0)
    names = [stem(x) for s in ("Train", "Test") for x in read_names(annotations / f"ucf_crime/Anomaly_{s}.txt")]
    for v in names:
        T = int(snippets.get(v, r.integers(30, 1000)))
        for k in range(10):
            with open(tmp_path / f"{v}__{k}.npy", "wb") as f:
                np.lib.format.write_array_header_1_0(f, {"descr": "<f4", "fortran_order": False, "shape": (T, 1024)})
                f.truncate(f.tell() + 4096*T)
    out = subprocess.run([sys.executable, "-c", SCRIPT, str(annotations / "ucf_crime"), str(tmp_path)], capture_output=True, text=True, check=True, timeout=300).stdout
    train, test, lineage, seconds, mb = out.split()
    print(f"{float(seconds):.1f} s, {float(mb):.0f} MB")
    assert (train, test, lineage) == ("1610", "290", "roc-ng")
    assert float(mb) < 500
    assert open_store(tmp_path).load("Abuse028_x264", crop=3)["rgb"].shape == (1, snippets["Abuse028_x264"], 1024)


def write_crops(folder, video, T=4, crops=5, D=8):
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(crops): np.save(folder / f"{video}__{k}.npy", np.full((T, D), k, np.float32))


def test_npy_errors(tmp_path):
    write_crops(tmp_path / "a", "v1")
    write_crops(tmp_path / "a", "v2", crops=4)
    store = NpyStore(tmp_path / "a")
    with pytest.raises(InputError, match="v2: missing crop 4"): store.load("v2")
    with pytest.raises(InputError, match="no features of 'v3'"): store.load("v3")
    np.save(tmp_path / "a/v1__2.npy", np.zeros((3, 8), np.float32))
    with pytest.raises(InputError, match="v1: crop 2 has another shape"): store.load("v1")
    (tmp_path / "a/v1__0.npy").write_bytes((tmp_path / "a/v1__1.npy").read_bytes()[:150])
    with pytest.raises(InputError, match="v1__0.npy: cut off"): NpyStore(tmp_path / "a").load("v1")
    (tmp_path / "b").mkdir(); np.save(tmp_path / "b/v.npy", np.array([{}], object))
    with pytest.raises(InputError, match="Python objects"): open_store(tmp_path / "b")
    np.save(tmp_path / "b/v.npy", np.full((3, 10, 8), np.nan, np.float32))
    with pytest.raises(InputError, match="NaN"): open_store(tmp_path / "b").load("v")


# --- one clear error for each mistake ---

@pytest.fixture
def ucf(tmp_path):
    "Two training and three test videos in UCF-Crime's files"
    (tmp_path / "Anomaly_Train.txt").write_text("Abuse/Abuse001_x264.mp4\nTraining_Normal_Videos_Anomaly/Normal_Videos001_x264.mp4\n")
    (tmp_path / "Anomaly_Test.txt").write_text("Arson/Arson011_x264.mp4\nFighting/Fighting003_x264.mp4\nTesting_Normal_Videos_Anomaly/Normal_Videos_003_x264.mp4\n")
    (tmp_path / "UCF_Annotation.txt").write_text("Fighting/Fighting003_x264.mp4 325 Fighting 16 48 160 327\nArson/Arson011_x264.mp4 320 Arson 80 240 -1 -1\n"
                                                 "Testing_Normal_Videos_Anomaly/Normal_Videos_003_x264.mp4 100 Normal -1 -1 -1 -1\n")
    for v, T in {"Abuse001": 9, "Normal_Videos001": 3, "Arson011": 20, "Fighting003": 20, "Normal_Videos_003": 6}.items():
        write_crops(tmp_path / "features", f"{v}_x264", T)
    return tmp_path


def change(path, old, new):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize("file, old, new, message", [
    ("UCF_Annotation.txt", "160 327", "160 400", "Fighting003_x264: event beyond the end"),
    ("UCF_Annotation.txt", "Normal -1 -1 -1 -1", "Normal 5 9 -1 -1", "label and events contradict"),
    ("UCF_Annotation.txt", "Arson 80 240", "Arson -1 -1", "label and events contradict"),
    ("UCF_Annotation.txt", "Arson 80 240", "Arson 80", "line 2: not understood"),
    ("UCF_Annotation.txt", "Arson/Arson011", "Fighting/Fighting003", "listed twice"),
    ("Anomaly_Test.txt", "Arson/Arson011", "Fighting/Fighting003", "listed twice"),
    ("Anomaly_Test.txt", "Arson/Arson011", "Arson/Arson012", "not the videos of Anomaly_Test.txt"),
])
def test_annotation_errors(ucf, file, old, new, message):
    change(ucf / file, old, new)
    with pytest.raises(InputError, match=message): load_dataset("ucf_crime", root=ucf, features=ucf / "features")


def test_feature_errors(ucf):
    data = load_dataset("ucf_crime", root=ucf, features=ucf / "features")
    assert set(data.table["lineage"]) == {"drop"} and len(data.train) == 2
    write_crops(ucf / "features/again", "Arson011_x264", 20)
    with pytest.raises(InputError, match="Arson011_x264 is listed twice"): load_dataset("ucf_crime", root=ucf, features=ucf / "features")
    problems = check_dataset(data.table, open_store(ucf / "features"))
    assert problems[["problem", "video"]].values.tolist() == [["duplicated", "again/Arson011_x264"]]
    for f in (ucf / "features/again").iterdir(): f.unlink()
    (ucf / "features/Arson011_x264__2.npy").unlink()
    assert check_dataset(data.table, open_store(ucf / "features"))["problem"].tolist() == ["unreadable"]
    for f in (ucf / "features").glob("Arson*"): f.unlink()
    assert check_dataset(data.table, open_store(ucf / "features"))["problem"].tolist() == ["missing"]
    write_crops(ucf / "features", "Arson011_x264", 7)
    with pytest.raises(InputError, match="(?s)Arson011_x264: too short for every known lineage.*roc-ng: 20 or 19"): load_dataset("ucf_crime", root=ucf, features=ucf / "features")
    assert check_dataset(data.table, open_store(ucf / "features"))["problem"].tolist() == ["too short"]


def test_features_in_folders_are_found_by_name(ucf):
    (ucf / "features").rename(ucf / "flat")
    for f in sorted((ucf / "flat").iterdir()):
        (ucf / "features" / f.name[:3]).mkdir(parents=True, exist_ok=True)
        f.rename(ucf / "features" / f.name[:3] / f.name)
    data, store = load_dataset("ucf_crime", root=ucf, features=ucf / "features"), open_store(ucf / "features")
    assert set(data.table["video"]) == set(store) and "Ars/Arson011_x264" in store
    assert not len(check_dataset(listed("ucf_crime", ucf), store)) and not len(check_dataset(data.table, store))


def test_features_that_are_not_there_are_noted(ucf):
    for f in (ucf / "features").glob("Arson*"): f.unlink()
    notes = load_dataset("ucf_crime", root=ucf, features=ucf / "features").notes
    assert any("1 of 5 videos are not in" in n and "Arson011_x264" in n for n in notes)


def test_without_annotated_lengths_features_must_give_them(ucf):
    lines = [x.split() for x in (ucf / "UCF_Annotation.txt").read_text().splitlines()]
    (ucf / "UCF_Annotation.txt").unlink()
    (ucf / "Temporal_Anomaly_Annotation.txt").write_text("\n".join(" ".join([x[0].split("/")[1], *x[2:]]) for x in lines))
    assert load_dataset("ucf_crime", root=ucf, features=ucf / "features").test["n_frames"].tolist() == [320, 320, 96]
    for f in (ucf / "features").glob("Arson*"): f.unlink()
    with pytest.raises(InputError, match="(?s)1 of 3 test videos have no length.*Arson011_x264"): load_dataset("ucf_crime", root=ucf, features=ucf / "features")


def test_wrong_order_and_wrong_lineage(ucf, tmp_path):
    table = load_dataset("ucf_crime", root=ucf, features=ucf / "features").test
    good = {"Arson011_x264": np.linspace(0, 1, 20), "Fighting003_x264": np.linspace(0, 1, 20), "Normal_Videos_003_x264": np.zeros(6)}
    assert evaluate_scores(good, table, n_bootstrap=0).protocol["tail"] == "drop"
    with pytest.raises(InputError, match="another order"): evaluate_scores(dict(zip(good, list(good.values())[::-1])), table)
    with pytest.raises(InputError, match="(?s)wrong lineage.*roc-ng.*drop"): evaluate_scores(good, table, tail="roc-ng")
    with pytest.raises(InputError, match="(?s)Fighting003_x264: features and truth have different lengths.*21 snippets.*325 frames.*20 snippets.*pad"):
        evaluate_scores(good | {"Fighting003_x264": np.zeros(21)}, table)
    np.save(tmp_path / "flat.npy", np.zeros(1111))
    with pytest.raises(InputError, match="(?s)different lengths.*truth 745: pad.*scores 1,111: no known lineage.*drop 736"): read_scores(tmp_path / "flat.npy", table)
    for lineage, n in (("drop", 736), ("drop", 46), ("pad", 48), ("frames", 745), ("rtfm", 768)):
        x = np.random.default_rng(0).random(n) if lineage == "frames" else np.zeros(n)
        np.save(tmp_path / "flat.npy", x)
        scores, found = read_scores(tmp_path / "flat.npy", table)
        assert found == lineage and list(scores) == list(good)
    (tmp_path / "each").mkdir()
    for v, x in good.items(): pd.DataFrame({"snippet": range(len(x)), "score": x}).to_csv(tmp_path / f"each/{v}.csv", index=False)
    np.savetxt(tmp_path / "each/Arson011_x264.csv", good["Arson011_x264"])
    (tmp_path / "each/Fighting003_x264.csv").unlink(); np.save(tmp_path / "each/Fighting003_x264.npy", good["Fighting003_x264"])
    scores, found = read_scores(tmp_path / "each", table)
    assert found == "drop" and all(np.allclose(scores[v], good[v]) for v in good)
    np.save(tmp_path / "each/Arson011_x264.npy", good["Arson011_x264"])
    with pytest.raises(InputError, match="Arson011_x264 has two files"): read_scores(tmp_path / "each", table)
    (tmp_path / "each/Arson011_x264.npy").unlink(); (tmp_path / "each/Arson011_x264.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="no column of scores"): read_scores(tmp_path / "each", table)
    (tmp_path / "list.txt").write_text("\n".join(f"x/{v}__{k}.npy" for v in reversed(list(good)) for k in range(5)))
    assert ordered(table, tmp_path / "list.txt")["video"].tolist() == list(good)[::-1]
    pd.DataFrame({"video": ["Arson011_x264"]*2, "frame": [16, 0], "score": [0, 1]}).to_csv(tmp_path / "s.csv", index=False)
    with pytest.raises(InputError, match="wrong order"): read_scores(tmp_path / "s.csv", table)
    truth = np.concatenate(list(lineage_truth(table.assign(split="test"), "rtfm").values()))
    assert check_truth(truth, table) == "rtfm"
    with pytest.raises(InputError, match="another order"): check_truth(truth[::-1], table)
    with pytest.raises(InputError, match="no known lineage"): check_truth(truth[:-5], table)


def test_a_csv_of_ones_own(ucf, tmp_path):
    (tmp_path / "mine.csv").write_text("video,split,label,events\nAbuse001_x264,train,1,\nNormal_Videos001_x264,train,0,\nArson011_x264,test,1,16-48\n")
    with pytest.raises(InputError, match="columns missing: n_frames"): load_table(tmp_path / "mine.csv")
    t = load_dataset(tmp_path / "mine.csv", features=open_store(ucf / "features")).table
    assert t["n_frames"].tolist() == [144, 48, 320] and t["class"].tolist() == ["Anomaly", "Normal", "Anomaly"]


def test_xd_names():
    assert xd_class("a_label_B1-B2-B6") == "Fighting+Shooting+Car accident" and xd_class("a_label_G") == "Explosion"
    with pytest.raises(InputError, match="no label in the name"): xd_class("a_label_B3")
