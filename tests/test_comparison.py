"""Delays, classes and comparisons of methods, against slow and plain versions."""
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from pivad.comparison import Scored, check_pairs, compare, comparison_plot, roc_pr_plot
from pivad.core import InputError
from pivad.datasets import frame_truth
from pivad.evaluation import classwise, delay_metrics, detection_delays, evaluate_scores


def case(seed, n=10, T=12):
    "A table of n videos of three classes, and random scores"
    g = np.random.default_rng(seed)
    table = pd.DataFrame({"video": [f"v{i}" for i in range(n)], "split": "test", "label": [i % 2 for i in range(n)], "class": [["Normal", "Arson", "Normal", "Fighting"][i % 4] for i in range(n)],
                          "n_frames": T * 16 + 5, "events": [[[40, 90], [130, 140]] if i % 2 else [] for i in range(n)]})
    return table, {v: np.round(g.random(T), 1) for v in table["video"]}


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 0.5, 0.95, 1.1]))
def test_delays_equal_a_plain_search(seed, threshold):
    table, scores = case(seed)
    found = detection_delays(scores, table, threshold=threshold)
    expected = []
    for v, events in zip(table["video"], table["events"]):
        for start, end in events:
            late = [f - start for f in range(start, end) if f // 16 < 12 and scores[v][f // 16] >= threshold]
            expected.append(late[0] if late else np.nan)
    np.testing.assert_array_equal(found["delay"], expected)
    m = delay_metrics(found)
    assert m["missed"] == pytest.approx(np.isnan(expected).mean())
    assert m["delay"] == pytest.approx(np.nanmean(expected) if not np.isnan(expected).all() else np.nan, nan_ok=True)


def test_no_event_has_no_delay():
    table, scores = case(0)
    normal = table[table["label"] == 0].reset_index(drop=True)
    m = delay_metrics(detection_delays(scores, normal))
    assert np.isnan(m["delay"]) and np.isnan(m["missed"])


def test_classes_equal_sklearn():
    table, scores = case(1)
    frames = {v: scores[v].repeat(16) for v in scores}
    truth = {r["video"]: frame_truth(r, 192) for _, r in table.iterrows()}
    for against in ("within", "normal"):
        for _, row in classwise(scores, table, against=against, n_bootstrap=20).iterrows():
            videos = table.loc[(table["class"] == row["class"]) | ((table["label"] == 0) & (against == "normal")), "video"]
            s, t = (np.concatenate([x[v] for v in videos]) for x in (frames, truth))
            assert row["AUC"] == pytest.approx(roc_auc_score(t, s), abs=1e-12) and row["AP"] == pytest.approx(average_precision_score(t, s), abs=1e-12)
            assert row["AUC low"] <= row["AUC high"]


def test_compare_is_the_paired_t_test_and_a_paired_bootstrap():
    table, _ = case(0, n=20)
    methods = {k: [Scored(case(10 * i + s, n=20)[1], table) for s in range(4)] for i, k in enumerate("AB")}
    values = {k: [100 * evaluate_scores(r.scores, table, n_bootstrap=0).metrics["AUC"] for r in runs] for k, runs in methods.items()}
    row = compare(methods, n=100).loc[("AUC", "B")]
    assert row["mean"] == pytest.approx(np.mean(values["B"])) and row["sd"] == pytest.approx(np.std(values["B"], ddof=1))
    assert row["p over runs"] == pytest.approx(stats.ttest_rel(values["B"], values["A"]).pvalue)
    assert row["low"] < row["difference"] < row["high"]
    back = compare(methods, reference="B", n=100).loc[("AUC", "A")]
    assert back["difference"] == pytest.approx(-row["difference"]) and back["low"] == pytest.approx(-row["high"])     # the same draws


@pytest.mark.filterwarnings("ignore:Precision loss")
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(0, 10**6), st.sampled_from(["random", "same", "ties"]))
def test_p_is_scipys_where_it_is_defined(runs, seed, kind):
    table, _ = case(0, n=6)
    methods = {k: [Scored({v: np.round(s, 0) if kind == "ties" else s for v, s in case(seed + (10 * i + r) * (kind != "same"), n=6)[1].items()}, table) for r in range(runs)] for i, k in enumerate("AB")}
    row = compare(methods, n=0).loc[("AUC", "B")]
    a, b = ([100 * roc_auc_score(*(np.concatenate(x) for x in zip(*[(frame_truth(v, 192), r.scores[v["video"]].repeat(16)) for _, v in table.iterrows()]))) for r in methods[k]] for k in "AB")
    assert row["difference"] == pytest.approx(np.mean(b) - np.mean(a), abs=1e-9)
    if runs == 1 or kind == "same":
        assert np.isnan(row["p over runs"])
    else:
        assert row["p over runs"] == pytest.approx(stats.ttest_rel(b, a).pvalue, rel=1e-6, nan_ok=True)


def test_an_undefined_metric_is_named_and_drawn_without_a_value():
    table, scores = case(0)
    table = table.assign(label=1, events=[[[0, 197]]] * len(table))      # every frame is anomalous
    with pytest.warns(UserWarning, match="AUC: no normal frame"):
        result = compare({"A": [Scored(scores, table)] * 2, "B": [Scored(scores, table)] * 2}, n=5)
    assert result["mean"].isna().all()
    assert [t.get_text() for t in comparison_plot(result).axes[0].get_yticklabels()] == ["B"]
    legend = roc_pr_plot({"A": Scored(scores, table)}, n=5).axes[0].get_legend()
    assert [t.get_text() for t in legend.get_texts()] == ["A, no normal frame"]


def test_what_cannot_be_paired():
    table, scores = case(0)
    other = table.iloc[::-1].reset_index(drop=True)
    with pytest.raises(InputError, match="cannot be paired"):
        check_pairs({"A": [Scored(scores, table)], "B": [Scored(scores, other)]})
    with pytest.raises(InputError, match="method"):
        compare({"A": [Scored(scores, table)]}, reference="C")


def test_curves_pass_through_sklearns_points():
    from sklearn.metrics import roc_curve

    table, scores = case(3)
    fig = roc_pr_plot({"A": Scored(scores, table)}, n=20)
    x, y = fig.axes[0].lines[0].get_data()
    s, t = np.concatenate([scores[v].repeat(16) for v in table["video"]]), np.concatenate([frame_truth(r, 192) for _, r in table.iterrows()])
    fpr, tpr, _ = roc_curve(t, s)
    np.testing.assert_allclose(y, np.interp(x, fpr, tpr), atol=1e-9)
