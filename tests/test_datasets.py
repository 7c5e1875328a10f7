"Dataset tables: bad input, and the builders against the real lists."
import numpy as np
import pandas as pd
import pytest

from pivad.core import InputError
from pivad.benchmarks import parse_ranges
from pivad.datasets import check_table, frame_truth, load_dataset, load_table, save_table, scored_frames
from pivad.features import FeatureStore, write_features
from pivad.surveillance_fights import assign_folds, clip_lengths, read_list, surveillance_fights


def table(**changes):
    "Two sound rows, with the second changed"
    t = pd.DataFrame({"video": ["a", "b"], "split": ["train", "test"], "label": [0, 1], "class": ["Normal", "Fight"], "n_frames": [64, 64],
                      "events": [[], [[0, 32]]]})
    for column, value in changes.items():
        t[column] = t[column].astype(object)
        t.at[1, column] = value
    return t


@pytest.mark.parametrize("change, words", [
    ({"video": "a"}, "listed twice"),
    ({"split": "validation"}, "unknown split"),
    ({"label": 2}, "unknown label"),
    ({"label": "yes"}, "label is not a whole number"),
    ({"n_frames": 12.5}, "n_frames is not a whole number"),
    ({"n_frames": None}, "n_frames is not a whole number"),
    ({"n_frames": 0, "events": []}, "no frames"),
    ({"events": [[0, 65]]}, "outside the video"),
    ({"events": [[-1, 3]]}, "outside the video"),
    ({"events": [[8, 8]]}, "ends before it starts"),
    ({"events": [[16, 32], [0, 8]]}, "overlap or are out of order"),
    ({"events": [[0, 32], [16, 48]]}, "overlap or are out of order"),
    ({"events": []}, "no event"),
    ({"events": "0-32;x"}, "cannot be read"),
    ({"label": 0}, "label 0, but there are events"),
])
def test_bad_tables(change, words):
    with pytest.raises(InputError, match=words) as e:
        check_table(table(**change), "my.csv")
    assert "my.csv" in str(e.value)


def test_missing_columns_and_empty_tables():
    with pytest.raises(InputError, match="columns missing: events"):
        check_table(table().drop(columns="events"))
    with pytest.raises(InputError, match="no videos"):
        check_table(table()[:0])


def test_csv_round_trip_is_byte_identical(tmp_path):
    t = table(events="0-16;32-64").assign(parts=[None, ["fight/fi001", "noFight/nofi001"]], fps=[25.0, 29.97])
    save_table(t, tmp_path/"a.csv")
    save_table(load_table(tmp_path/"a.csv"), tmp_path/"b.csv")
    assert (tmp_path/"a.csv").read_bytes() == (tmp_path/"b.csv").read_bytes()
    assert load_table(tmp_path/"b.csv")["parts"].tolist() == [None, ["fight/fi001", "noFight/nofi001"]]


def test_bad_files(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_table(tmp_path/"none.csv")
    (tmp_path/"binary.csv").write_bytes(b"\x00\xff\xfe\x00" * 100)
    with pytest.raises(InputError):
        load_table(tmp_path/"binary.csv")
    save_table(table(), tmp_path/"t.csv")
    with pytest.raises(InputError, match="no column fold"):
        load_dataset(tmp_path/"t.csv", fold=0)
    with pytest.raises(InputError, match="no such folder"):
        load_dataset("ucsd_ped2", root=tmp_path/"none")
    with pytest.raises(InputError, match="neither UCSDped2.m nor videos.csv"):
        load_dataset("ucsd_ped2", root=tmp_path)
    with pytest.raises(InputError, match="unknown option for ucsd_ped2: 'fold'"):
        load_dataset("ucsd_ped2", root=tmp_path, fold=1)
    with pytest.raises(InputError, match="where are its files"):
        load_dataset("ucsd_ped2")


@pytest.mark.parametrize("n, T, lead", [(480, 31, "no known convention"), (325, 21, 'tail="pad"'), (320, 19, "XD-Violence"), (3200, 32, "pooled bag")])
def test_unexplained_lengths_name_both_and_a_lead(n, T, lead):
    with pytest.raises(InputError) as e:
        scored_frames(n, T, video="clip")
    assert all(word in str(e.value) for word in ("clip", f"{T} snippets", f"{n} frames", lead))


def test_ped2_against_its_own_counts(shared):
    data = load_dataset("ucsd_ped2", root=shared/"data/ucsd_ped2")
    listed = pd.read_csv(shared/"data/ucsd_ped2/videos.csv").set_index("video")
    assert {v: int(t.sum()) for v, t in frame_truth(data.table).items()} == listed["n_abnormal"].to_dict()
    assert [len(data.train), len(data.test)] == [10, 18] and data.train["label"].sum() == 6


def test_ranges():
    assert parse_ranges("1:3,5:5") == [[0, 3], [4, 5]]
    with pytest.raises(InputError, match="frame ranges"):
        parse_ranges("1-3", "videos.csv")


# --- Surveillance Camera Fight ---

def test_list_against_an_independent_reading(shared):
    "Another reader of the same list; it files one clip, seen in CamNet's corridor, under Synopsis"
    clips, notes = read_list(shared/"data/surveillance_fights/videos.txt")
    other = pd.read_csv(shared/"data/surveillance_fights/clips.csv")
    clips["name"] = clips["clip"].str.split("/").str[1]
    both = clips.merge(other, left_on="name", right_on="clip", suffixes=("", "_other"), validate="one_to_one")
    assert len(both) == 300 and (both["label"] == both["label_other"]).all()
    assert both.loc[both["source"] != both["source_id"], "name"].tolist() == ["nofi076"]
    np.testing.assert_allclose(both["start"], both["start_s"])
    assert sorted(n.split()[0] for n in notes) == ["fi133", "noFight/nofi022", "noFight/nofi076"]


@pytest.mark.parametrize("line", ["fi002 0.20.00", "fi002: 20.00 - 22.00"])
def test_a_list_that_cannot_be_read(tmp_path, line):
    (tmp_path/"videos.txt").write_text(f"https://a\nfi001: 0.13.50 - 0.15.60\n{line}\n")
    with pytest.raises(InputError, match="line 3"):
        read_list(tmp_path/"videos.txt")
    with pytest.raises(InputError, match="clone"):
        surveillance_fights(tmp_path/"none")


def test_features_with_a_padded_tail_cannot_be_joined(tmp_path):
    (tmp_path/"videos.txt").write_text("https://a\nfi001: 0.13.50 - 0.15.60\n")
    write_features(tmp_path/"fight/fi001.safetensors", {"rgb": np.zeros((1, 3, 1))}, {"n_frames": 40, "fps": 25.0, "tail": "pad", "crops": 1})
    with pytest.raises(InputError, match="fight/fi001: features were made with a padded tail"):
        surveillance_fights(tmp_path, features=FeatureStore(tmp_path))


def test_a_missing_clip_is_named(tmp_path):
    (tmp_path/"videos.txt").write_text("https://a\nfi001: 0.13.50 - 0.15.60\n")
    with pytest.raises(InputError, match="fight/fi001"):
        surveillance_fights(tmp_path)


def test_lengths_from_the_videos_themselves(shared):
    root = shared/"data/surveillance_fights"
    other = pd.read_csv(root/"clips.csv").set_index("clip")
    clips, short = clip_lengths(read_list(root/"videos.txt")[0].iloc[::25], root)
    names = clips["clip"].str.split("/").str[1]
    assert not short and clips["n_snippets"].tolist() == (other.loc[names, "n_frames"] // 16).tolist()
    np.testing.assert_allclose(clips["fps"], other.loc[names, "fps"], atol=0.01)


@pytest.fixture(scope="module")
def store(shared, tmp_path_factory):
    "A feature store with the real clips' lengths: reading these is quicker than decoding 300 videos"
    folder = tmp_path_factory.mktemp("features")
    for _, c in pd.read_csv(shared/"data/surveillance_fights/clips.csv").iterrows():
        arrays, meta = {"rgb": np.zeros((1, c["n_frames"] // 16, 1))}, {"n_frames": c["n_frames"], "fps": c["fps"], "tail": "drop", "crops": 1}
        write_features(folder/f"{c['class']}/{c['clip']}.safetensors", arrays, meta)
    return FeatureStore(folder)


@pytest.fixture(scope="module")
def five_folds(shared, store):
    return [load_dataset("surveillance_fights", root=shared/"data/surveillance_fights", features=store, fold=k) for k in range(5)]


def test_no_source_and_no_clip_in_both_splits(shared, five_folds):
    other = pd.read_csv(shared/"data/surveillance_fights/clips.csv").set_index("clip")["source_id"]   # the other reading of the list must not leak either
    for data in five_folds:
        clips = {s: {c.split("/")[1] for parts in t["parts"] for c in parts} for s, t in (("train", data.train), ("test", data.test))}
        assert len(clips["train"] | clips["test"]) == 300
        assert not set(data.train["source"]) & set(data.test["source"])
        assert not set(other[list(clips["train"])]) & set(other[list(clips["test"])])


def test_folds_are_a_partition_with_both_labels_everywhere(five_folds):
    tested = pd.concat([d.test for d in five_folds])
    assert tested["video"].is_unique and tested["source"].nunique() == 46
    for data in five_folds:
        assert data.test["label"].value_counts().min() >= 7
        assert 0.4 < (data.train["label"] == 1).mean() < 0.6


def test_truth_is_exact_and_lengths_are_the_clips(shared, five_folds):
    frames = pd.read_csv(shared/"data/surveillance_fights/clips.csv").set_index("clip")["n_frames"]
    for _, row in five_folds[0].table.iterrows():
        truth = [np.full(frames[c.split("/")[1]] // 16 * 16, c.startswith("fight/"), np.int8) for c in row["parts"]]
        np.testing.assert_array_equal(frame_truth(row), np.concatenate(truth))


def test_test_clips_are_used_twice_at_most_and_draws_follow_the_seed(shared, store, five_folds):
    used = pd.Series([c for parts in five_folds[0].test["parts"] for c in parts]).value_counts()
    assert used.max() <= 2
    assert not five_folds[0].train["parts"].map(tuple).duplicated().any()
    other = load_dataset("surveillance_fights", root=shared/"data/surveillance_fights", features=store, fold=0, seed=1)
    assert five_folds[0].test["parts"].tolist() == other.test["parts"].tolist()
    assert five_folds[0].train["parts"].tolist() != other.train["parts"].tolist()


def test_folds_keep_the_ambiguous_sources_together(shared):
    folds = assign_folds(read_list(shared/"data/surveillance_fights/videos.txt")[0])
    assert folds["camnet"] == folds["synopsis"] and len(folds) == 46
