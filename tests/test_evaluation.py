"Metrics against sklearn, with ties and weights; intervals; bad input."
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pivad.core import InputError
from pivad.datasets import frame_truth
from pivad.evaluation import (bootstrap, cell_metrics, classwise, count_cells, delay_metrics, delay_samples, detection_delays, draw_videos, evaluate,
                              evaluate_scores, frame_metrics, intervals, postprocess, predict, video_score, weighted_metrics)
from pivad.features import FeatureStore, write_features


def synthetic(seed, levels, videos=12):
    "Scores with about `levels` distinct values, truth, video lengths; every third video is normal"
    r = np.random.default_rng(seed)
    lengths = r.integers(20, 200, videos)
    truth = np.concatenate([(np.arange(n) % 20 < 6) & bool(v % 3) for v, n in enumerate(lengths)]).astype(int)
    scores = np.clip(r.normal(0.4 + 0.15*truth, 0.25), 0, 1)
    return np.round(scores*levels)/levels, truth, lengths


@pytest.mark.parametrize("levels", [1, 2, 7, 100, 10**9])
@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_sklearn(seed, levels):
    scores, truth, lengths = synthetic(seed, levels)
    ids = np.repeat(np.arange(len(lengths)), lengths)
    within = ids % 3 > 0
    step, trapezoid = (frame_metrics(scores, truth, lengths, ap=ap) for ap in ("step", "trapezoid"))
    for suffix, part in (("", slice(None)), ("_A", within)):
        s, t = scores[part], truth[part]
        precision, recall, _ = sk.precision_recall_curve(t, s)
        assert step["AUC" + suffix] == pytest.approx(sk.roc_auc_score(t, s), abs=1e-12)
        assert step["AP" + suffix] == pytest.approx(sk.average_precision_score(t, s), abs=1e-12)
        assert trapezoid["AP" + suffix] == pytest.approx(sk.auc(recall, precision), abs=1e-12)
    assert step["FAR"] == pytest.approx((scores[~within] >= 0.5).mean(), abs=1e-12)
    assert frame_metrics(scores, truth, ids) == step                     # ids and lengths say the same
    assert frame_metrics(scores, truth, ids.astype(str)) == pytest.approx(step, abs=1e-12)


def test_weights_equal_repeated_videos():
    "A bootstrap resample is the metrics of the videos written out as often as they were drawn"
    scores, truth, lengths = synthetic(5, 50)
    cells, weight = count_cells(scores, truth, lengths), np.random.default_rng(1).integers(0, 3, len(lengths))
    ids = np.repeat(np.arange(len(lengths)), lengths)
    frames = np.concatenate([np.flatnonzero(ids == v) for v, w in enumerate(weight) for _ in range(w)])
    m = cell_metrics(cells, weight.astype(float))
    assert m["AUC"] == pytest.approx(sk.roc_auc_score(truth[frames], scores[frames]), abs=1e-12)
    assert m["AP"] == pytest.approx(sk.average_precision_score(truth[frames], scores[frames]), abs=1e-12)


def test_bootstrap_is_stratified_and_reproducible():
    scores, truth, lengths = synthetic(2, 1000)
    cells = count_cells(scores, truth, lengths)
    a, b, c = bootstrap(cells, 100, seed=3), bootstrap(cells, 100, seed=3), bootstrap(cells, 100, seed=4)
    assert a.equals(b) and not a.equals(c)
    assert a.notna().all().all()               # both kinds of videos in every resample
    value = cell_metrics(cells)
    for k, (low, high) in intervals(a).items():
        assert low <= value[k] <= high and low < high
    assert bootstrap(count_cells(*synthetic(2, 1000, videos=3)), 100)["AUC"].std() > 0   # two anomalous, one normal video


@pytest.mark.parametrize("change, words", [
    (dict(scores=np.ones(9)), "different lengths"),
    (dict(scores=np.r_[np.ones(9), np.nan]), "NaN"),
    (dict(truth=np.full(10, 2)), "not 0 or 1"),
    (dict(videos=[4, 5]), "fit neither way"),
    (dict(videos=["a", "b"]), "fit neither way"),
    (dict(videos=[4, 6], anomalous=[0, 1]), "anomalous frames in normal videos"),
    (dict(videos=[4, 6], anomalous=[1]), "differ in number"),
    (dict(ap="area"), "definition of AP"),
    (dict(scores=[], truth=[]), "or none"),
])
def test_bad_input(change, words):
    with pytest.raises(InputError, match=words):
        frame_metrics(**dict(scores=np.linspace(0, 1, 10), truth=np.r_[1, np.zeros(9)]) | change)


def test_a_missing_class_is_nan_with_an_explanation():
    with pytest.warns(UserWarning, match="undefined and NaN: FAR"):
        m = frame_metrics([0.1, 0.9, 0.4], [0, 1, 0], [3])
    assert np.isnan(m["FAR"]) and m["AUC"] == 1
    with pytest.warns(UserWarning, match="undefined and NaN: AUC, AUC_A, FAR"):
        m = frame_metrics([0.1, 0.9, 0.4], [1, 1, 1], [1, 2])
    assert np.isnan(m["AUC"]) and m["AP"] == 1


class Mean(torch.nn.Module):
    def forward(self, x):
        assert not self.training and not torch.is_grad_enabled()
        return type("Output", (), {"scores": torch.sigmoid(x.mean((1, 3)))})


@pytest.fixture
def store(tmp_path):
    r = np.random.default_rng(0)
    for name, T in (("a/1", 5), ("a/2", 3), ("b", 9)):
        write_features(tmp_path/f"{name}.safetensors", {"rgb": r.normal(size=(2, T, 8))}, {"n_frames": 16*T, "fps": 25.0, "tail": "drop", "crops": 2})
    return FeatureStore(tmp_path)


def rows():
    return pd.DataFrame({"video": ["a", "b"], "split": "test", "label": [1, 0], "class": "", "n_frames": [128, 150], "events": [[[80, 128]], []],
                         "parts": [["a/1", "a/2"], None]})


def test_predict_joins_parts_and_restores_the_mode(store):
    model = Mean().train()
    scores = predict(model, rows(), store, device="cpu")
    assert {k: v.shape for k, v in scores.items()} == {"a": (8,), "b": (9,)} and model.training
    first = torch.sigmoid(torch.from_numpy(store.load("a/1")["rgb"]).mean((0, 2))).numpy()
    np.testing.assert_allclose(scores["a"][:5], first, rtol=1e-6)


def test_evaluate_says_what_it_used(store):
    result = evaluate(Mean(), rows(), store, device="cpu", n_bootstrap=20, selection="last step")
    assert result.protocol["frames"] == 128 + 144 and result.protocol["anomalous_frames"] == 48 and result.protocol["selection"] == "last step"
    assert set(result.metrics) == set(result.intervals) == {"AUC", "AUC_A", "AP", "AP_A", "FAR", "FAR_R90", "delay", "missed"}
    assert "scores" not in result.to_dict()


def test_a_model_that_returns_nonsense(store):
    class NaN(torch.nn.Module):
        def forward(self, x): return type("Output", (), {"scores": x.mean((1, 3))*float("nan")})
    with pytest.raises(InputError, match="a: the model's scores"):
        predict(NaN(), rows(), store, device="cpu")
    with pytest.raises(InputError, match="no scores"):
        evaluate_scores({"a": np.zeros(8)}, rows())
    with pytest.raises(InputError, match="tail=\"pad\""):
        evaluate_scores({"a": np.zeros(8), "b": np.zeros(10)}, rows())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = evaluate_scores({"a": np.zeros(8), "b": np.zeros(10)}, rows(), tail="pad", n_bootstrap=0)
    assert np.isnan(result.metrics["delay"]) and "threshold" in result.protocol["undefined"]["delay"] and result.metrics["missed"] == 1


# --- properties: random and degenerate cases against sklearn ---

@st.composite
def cases(draw):
    "Scores, truth and video lengths: ties, constant scores, one class, a single video"
    lengths = draw(st.lists(st.integers(1, 40), min_size=1, max_size=6))
    n, levels = sum(lengths), draw(st.sampled_from([1, 2, 5, 10**6]))
    scores = np.array(draw(st.lists(st.integers(0, levels), min_size=n, max_size=n)))/levels
    kind = draw(st.sampled_from(["any", "all normal", "all anomalous"]))
    truth = np.array(draw(st.lists(st.integers(0, 1), min_size=n, max_size=n))) if kind == "any" else np.full(n, int(kind == "all anomalous"))
    return scores, truth, lengths


def reference(truth, scores):
    "sklearn's figures; NaN where pivad says so: sklearn gives 0 for AP without a positive"
    if not len(truth) or not truth.any(): return [float("nan")]*3
    precision, recall, _ = sk.precision_recall_curve(truth, scores)
    return [sk.roc_auc_score(truth, scores) if not truth.all() else float("nan"), sk.average_precision_score(truth, scores), sk.auc(recall, precision)]


@settings(max_examples=300, deadline=None)
@given(cases())
def test_properties(case):
    scores, truth, lengths = case
    ids = np.repeat(np.arange(len(lengths)), lengths)
    anomalous = np.bincount(ids, truth) > 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        step, trapezoid = (frame_metrics(scores, truth, ids, ap=ap) for ap in ("step", "trapezoid"))
    for suffix, part in (("", np.ones(len(ids), bool)), ("_A", anomalous[ids])):
        auc, ap, area = reference(truth[part], scores[part])
        assert step["AUC" + suffix] == pytest.approx(auc, abs=1e-12, nan_ok=True)
        assert step["AP" + suffix] == pytest.approx(ap, abs=1e-12, nan_ok=True)
        assert trapezoid["AP" + suffix] == pytest.approx(area, abs=1e-12, nan_ok=True)
    normal = scores[~anomalous[ids]]
    assert step["FAR"] == pytest.approx((normal >= 0.5).mean() if len(normal) else float("nan"), abs=1e-12, nan_ok=True)
    if truth.any() and len(normal):
        fpr, tpr, thresholds = sk.roc_curve(np.r_[truth, 0], np.r_[scores, -1], drop_intermediate=False)
        threshold = thresholds[np.flatnonzero(tpr >= 0.9 - 1e-12)[0]]
        assert step["FAR_R90"] == pytest.approx((normal >= threshold).mean(), abs=1e-12)
    undefined = [k for k, v in step.items() if np.isnan(v)]
    assert bool(undefined) == bool(caught) and all(f"{k}: no " in str(caught[0].message) for k in undefined)


@settings(max_examples=200, deadline=None)
@given(cases(), st.sampled_from(["step", "trapezoid"]), st.sampled_from([0.0, 0.3, 0.5, 1.0, 1.1]), st.integers(0, 10**6))
def test_a_resample_is_its_videos_written_out(case, ap, threshold, seed):
    "Weights against sklearn on the frames of every video as often as it was drawn; the quick and the plain way agree to the last digits"
    scores, truth, lengths = case
    ids = np.repeat(np.arange(len(lengths)), lengths)
    anomalous = np.bincount(ids, truth) > 0
    cells, weight = count_cells(scores, truth, lengths), np.random.default_rng(seed).integers(0, 3, len(lengths)).astype(float)
    quick, plain = weighted_metrics(cells, ap, threshold)(weight), cell_metrics(cells, weight, ap, threshold)
    frames = np.repeat(np.arange(len(ids)), weight[ids].astype(int))
    for suffix, part in (("", frames), ("_A", frames[anomalous[ids[frames]]])):
        auc, step, trapezoid = reference(truth[part], scores[part])
        for found in (quick, plain):
            assert found["AUC" + suffix] == pytest.approx(auc, abs=1e-12, nan_ok=True)
            assert found["AP" + suffix] == pytest.approx(step if ap == "step" else trapezoid, abs=1e-12, nan_ok=True)
    normal = scores[frames[~anomalous[ids[frames]]]]
    for found in (quick, plain):
        assert found["FAR"] == pytest.approx((normal >= threshold).mean() if len(normal) else float("nan"), abs=1e-12, nan_ok=True)
    assert quick["FAR_R90"] == pytest.approx(plain["FAR_R90"], abs=1e-12, nan_ok=True)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1) | st.just(float("nan")), min_size=1, max_size=60), st.sampled_from([0.5, 0.9, 0.95]))
def test_intervals_are_percentiles_of_what_is_defined(values, level):
    low, high = intervals(pd.DataFrame({"AUC": values}), level)["AUC"]
    defined = [v for v in values if v == v]
    expected = np.quantile(defined, [(1 - level)/2, (1 + level)/2]) if defined else [np.nan, np.nan]
    np.testing.assert_allclose([low, high], expected, atol=1e-12)


@st.composite
def sets_of_videos(draw):
    "A small test set and its scores: several classes, events that may lie in the dropped tail, ties, perhaps one label or one video only"
    rows, scores = [], {}
    for i in range(draw(st.integers(1, 6))):
        T, label = draw(st.integers(1, 6)), draw(st.integers(0, 1))
        n = 16*T + draw(st.integers(0, 15))
        cuts = sorted(draw(st.sets(st.integers(0, n), min_size=2*draw(st.integers(1, 2)), max_size=4)))
        events = [[a, b] for a, b in zip(cuts[::2], cuts[1::2])] if label else []
        rows.append({"video": f"v{i}", "split": "test", "label": label, "class": draw(st.sampled_from(["Arson", "Fighting"])) if label else "Normal", "n_frames": n, "events": events})
        scores[f"v{i}"] = np.array(draw(st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.9]), min_size=T, max_size=T)))
    return pd.DataFrame(rows), scores


def pooled(table, scores):
    "Scores and truth of all scored frames of some videos"
    frames = [(np.repeat(scores[r["video"]], 16), frame_truth(r, 16*len(scores[r["video"]]))) for _, r in table.iterrows()]
    return [np.concatenate(x) for x in zip(*frames)]


@pytest.mark.filterwarnings("ignore:undefined and NaN")
@settings(max_examples=150, deadline=None)
@given(sets_of_videos())
def test_levels_and_classes_equal_sklearn(case):
    table, scores = case
    result = {level: evaluate_scores(scores, table, level=level, n_bootstrap=3) for level in ("frame", "snippet", "video")}
    s, t = pooled(table, scores)
    halves = t.reshape(-1, 16).sum(1) >= 8
    expected = {"frame": (s, t), "snippet": (s[::16], halves), "video": (np.array([np.sort(scores[v])[-(len(scores[v])//16 + 1):].mean() for v in table["video"]]), table["label"].to_numpy())}
    for level, (s, t) in expected.items():
        auc, ap, _ = reference(t, s)
        name = "" if level == "frame" else f"{level} "
        assert result[level].metrics[f"{name}AUC"] == pytest.approx(auc, abs=1e-12, nan_ok=True)
        assert result[level].metrics[f"{name}AP"] == pytest.approx(ap, abs=1e-12, nan_ok=True)
        undefined = {k.removeprefix(name) for k, v in result[level].metrics.items() if np.isnan(v)}
        assert undefined == set(result[level].protocol.get("undefined", {}))            # every NaN has its reason
    if not table["label"].any(): return
    for against in ("within", "normal"):
        for _, row in classwise(scores, table, against=against, n_bootstrap=0).iterrows():
            s, t = pooled(table[(table["class"] == row["class"]) | (table["label"] == 0) & (against == "normal")], scores)
            auc, ap, _ = reference(t, s)
            assert row["AUC"] == pytest.approx(auc, abs=1e-12, nan_ok=True) and row["AP"] == pytest.approx(ap, abs=1e-12, nan_ok=True)


@settings(max_examples=100, deadline=None)
@given(sets_of_videos(), st.integers(0, 10**6))
def test_resampled_delays_are_those_of_the_videos_written_out(case, seed):
    table, scores = case
    weights = np.random.default_rng(seed).integers(0, 3, (4, len(table)))
    samples = delay_samples(detection_delays(scores, table), table, weights)
    for w, (_, found) in zip(weights, samples.iterrows()):
        drawn = table.iloc[np.repeat(np.arange(len(table)), w)]
        expected = delay_metrics(detection_delays(scores, drawn) if len(drawn) else pd.DataFrame(columns=["delay"], dtype=float))
        assert found.to_dict() == pytest.approx(expected, abs=1e-12, nan_ok=True)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(1, 9))
def test_smoothing_is_a_mean_of_the_neighbours_there_are(scores, width):
    window, ones = np.ones(width), np.ones(len(scores))
    full = np.convolve(scores, window)/np.convolve(ones, window)
    np.testing.assert_allclose(postprocess(scores, smooth=width), full[width//2:][:len(scores)], atol=1e-9)
    stretched = postprocess(scores, minmax=True)
    assert stretched.min() == 0 and stretched.max() == (1 if np.ptp(scores) else 0)


def test_a_class_without_normal_frames_says_so():
    table = pd.DataFrame({"video": ["a", "b"], "split": "test", "label": 1, "class": ["Arson", "Abuse"], "n_frames": 32, "events": [[[0, 32]], [[0, 16]]]})
    with pytest.warns(UserWarning, match="Arson AUC: no normal frame"):
        found = classwise({"a": np.array([.1, .2]), "b": np.array([.9, .2])}, table, n_bootstrap=0).set_index("class")
    assert np.isnan(found.loc["Arson", "AUC"]) and found.loc["Abuse", "AUC"] == 1


def test_the_draws_are_stratified():
    cells = count_cells(*synthetic(2, 10))
    for w in draw_videos(cells, 20): assert w[cells.anomalous].sum() == cells.anomalous.sum() and w.sum() == len(w)


def test_levels_and_postprocessing_are_named():
    table = pd.DataFrame({"video": ["a", "b"], "split": "test", "label": [1, 0], "class": "", "n_frames": [100, 40], "events": [[[16, 41]], []]})
    scores = {"a": np.array([.1, .9, .8, .2, .1, .1]), "b": np.array([.3, .2])}
    results = {level: evaluate_scores(scores, table, level=level, n_bootstrap=10) for level in ("frame", "snippet", "video")}
    assert results["frame"].protocol["anomalous_frames"] == 25 and results["snippet"].protocol["anomalous_snippets"] == 2
    assert set(results["video"].metrics) >= {"video AUC", "video AP"} and "AUC" not in results["video"].metrics
    assert results["video"].metrics["video AUC"] == 1 and np.isnan(results["video"].metrics["video AUC_A"])
    assert "AUC_A" in results["video"].protocol["undefined"]
    smooth = evaluate_scores(scores, table, smooth=3, minmax=True, n_bootstrap=0)
    assert smooth.protocol["smoothing"] == "moving mean over 3" and smooth.protocol["min-max"] == "per video"
    assert results["frame"].protocol["smoothing"] == "none" and smooth.metrics != results["frame"].metrics
    assert postprocess([0.4, 0.4], minmax=True).tolist() == [0, 0]
    assert video_score(np.arange(32)) == 30


def test_no_videos_is_an_error():
    with pytest.raises(InputError, match="no videos to evaluate"):
        evaluate_scores({}, rows().iloc[:0])
