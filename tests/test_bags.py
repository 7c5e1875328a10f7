"Bags: the same batches whatever the number of workers, the cache or the step at which a run resumes; bad input."
import numpy as np
import pandas as pd
import pytest
import torch

from pivad.bags import BagDataset, bag_loader
from pivad.core import InputError
from pivad.features import FeatureStore, write_features


def write(folder, name, T, dim=8, crops=3, flow=True):
    r = np.random.default_rng(T)
    arrays = {"rgb": r.normal(size=(crops, T, dim))} | ({"flow": r.normal(size=(T, 2))} if flow else {})
    write_features(folder/f"{name}.safetensors", arrays, {"n_frames": 16*T, "fps": 25.0, "tail": "drop", "crops": crops})


@pytest.fixture
def data(tmp_path):
    lengths = {"n0": 4, "n1": 70, "n2": 33, "a0": 5, "a1": 50}
    for name, T in lengths.items(): write(tmp_path, name, T)
    table = pd.DataFrame([{"video": v, "split": "train", "label": int(v[0] == "a"), "class": "", "n_frames": 16*T, "events": []} for v, T in lengths.items()])
    table["parts"] = None
    table.loc[len(table)] = {"video": "joined", "split": "train", "label": 1, "class": "", "n_frames": 16*9, "events": [], "parts": ["n0", "a0"]}
    table.loc[len(table)] = {"video": "unseen", "split": "test", "label": 1, "class": "", "n_frames": 16, "events": [[0, 16]], "parts": None}
    return table, FeatureStore(tmp_path)


def batches(data, **options):
    return list(bag_loader(*data, **dict(modalities=["flow"], segments=16, batch_size=4, seed=5, steps=5) | options))


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x["rgb"], y["rgb"]) and torch.equal(x["modalities"]["flow"], y["modalities"]["flow"]) for x, y in zip(a, b))


def test_same_batches_for_any_number_of_workers_and_any_cache(data):
    whole = batches(data)
    assert same(whole, batches(data, workers=2)) and same(whole, batches(data, cache_mb=0))
    assert not same(whole, batches(data, seed=6))
    assert whole[0]["rgb"].dtype == torch.float32 and whole[0]["rgb"].shape == (8, 16, 8)


def test_workers_that_are_spawned(data):
    loader = bag_loader(*data, ["flow"], 16, 4, seed=5, steps=2, workers=1)
    loader.multiprocessing_context = "spawn"
    assert same(list(loader), batches(data, steps=2))


def test_resuming_needs_no_replay_and_leaves_torchs_seed_alone(data):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert same(batches(data)[3:], batches(data, start_step=3))
    assert torch.equal(before, torch.get_rng_state())


def test_crops_are_drawn_and_parts_are_joined(data):
    table, store = data
    bags = BagDataset(table[table["video"].isin(["n0", "joined"])], store, segments=9, batch_size=30)
    rgb = bags[0]["rgb"]
    joined = store.load(["n0", "a0"])["rgb"]                                  # (3, 9, 8): nine segments are its snippets
    crops = [int(np.argmin([np.abs(x.numpy() - c).max() for c in joined])) for x in rgb[30:]]
    assert set(crops) == {0, 1, 2}
    np.testing.assert_allclose(rgb[30].numpy(), joined[crops[0]], rtol=1e-6)


def test_bad_input(data, tmp_path):
    table, store = data
    with pytest.raises(InputError, match="no normal training videos"):
        bag_loader(table[table["label"] == 1], store)
    extra = table.iloc[[0]].assign(video="n9")
    with pytest.raises(InputError, match="features of 1 training videos are missing.*\n.*n9"):
        bag_loader(pd.concat([table, extra]), store)
    with pytest.raises(InputError, match="no pose in this feature file"):
        batches(data, modalities=["pose"])
    write(tmp_path, "n9", 6, dim=4)
    with pytest.raises(InputError, match="n9: rgb features have another dimension|another dimension than those of n9"):
        batches((pd.concat([table, extra]), store))


@pytest.mark.parametrize("break_it, words", [
    (lambda a: a["rgb"].__setitem__((0, 3, 0), np.nan), "NaN"),
    (lambda a: a.__setitem__("flow", a["flow"][:-1]), "differ in T"),
])
def test_broken_files_are_named(data, break_it, words):
    "Files that another program wrote, since pivad itself refuses to write them"
    from safetensors.numpy import load_file, save_file
    table, store = data
    arrays = load_file(store.path("a0"))
    break_it(arrays)
    save_file(arrays, store.path("a0"), metadata={"pivad": "{}"})
    with pytest.raises(InputError, match=f"a0.*{words}"):
        batches(data)
