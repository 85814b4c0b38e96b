"""Probes on the page: curves where there is more than one step, intervals, and nothing taken on trust."""

from mae_ext.report.probes import probes_section


def row(step, accuracy=0.5, weights="pretrained", **more):
    part = {
        "accuracy": accuracy,
        "accuracy_ci": [accuracy - 0.1, accuracy + 0.1],
        "balanced_accuracy": 0.4,
        "auroc": 0.7,
    }
    base = {"step": step, "weights": weights, "pool": "mean", "train": "a/train", "test": "a/test"}
    return {**base, "linear": part, "knn": {**part, "k": 20}, **more}


def test_one_probe_is_a_row_with_its_interval_and_no_curve():
    html = probes_section([row(100)])
    assert "<svg" not in html and "50.0 [40.0, 60.0]" in html and "70.0" in html


def test_probes_of_several_steps_are_curves_in_the_order_of_steps():
    html = probes_section([row(200, 0.6), row(0, 0.3), row(100, 0.5)])
    assert html.count("<svg") == 3  # accuracy, balanced accuracy, AUROC
    assert 'data-name="linear"' in html and 'data-name="kNN"' in html and 'data-name="attentive"' not in html
    assert ";0;30|" in html and ";200;60<" in html


def test_random_weights_and_other_test_data_are_not_on_the_same_curve():
    assert "<svg" not in probes_section([row(0, weights="random"), row(100), row(200, test="b/test")])
    both = [row(s, test=t) for s in (0, 100) for t in ("a/test", "b/other")]
    assert probes_section(both).count("<svg") == 6 and "accuracy on other, %" in probes_section(both)


def test_several_labels_have_no_accuracy_and_that_is_no_matter():
    part = {"auroc": 0.8, "average_precision": 0.3}
    html = probes_section([row(s, linear=part, knn=part, chance=None) for s in (0, 100)])
    assert html.count("<svg") == 2 and "average precision, %" in html and "–" in html


def test_values_of_any_kind_do_not_break_the_page():
    odd = {
        "step": "x",
        "weights": ["<b>"],
        "linear": {"accuracy": "9", "accuracy_ci": [None, 1]},
        "knn": 3,
        "test": None,
    }
    html = probes_section([odd, {}, row(1), row(None)])
    assert "<b>" not in html
    assert probes_section([]) == ""
