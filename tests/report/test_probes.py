"""Probes on the page: curves where there is more than one step, intervals, and nothing taken on trust."""

import re

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


def test_each_score_stands_in_its_own_column_and_the_best_of_a_column_is_marked():
    def part(accuracy, balanced, area):
        return {"accuracy": accuracy, "balanced_accuracy": balanced, "auroc": area, "k": 20}

    first = row(100, linear=part(0.81, 0.72, 0.93), knn=part(0.64, 0.5, 0.5), chance=0.3, n_train=40, n_test=12)
    second = row(200, linear=part(0.80, 0.5, 0.5), knn=part(0.65, 0.5, 0.5), n_classes=5, folds=4)
    html = probes_section([first, second]).partition("<tbody>")[2].partition("</tbody>")[0]
    cells = [re.findall(r'<td class="(.*?)">(.*?)</td>', line) for line in html.split("</tr>")[:2]]
    assert [text for _, text in cells[0]] == [
        "100", "pretrained", "mean", "81.0", "72.0", "93.0", "64.0", "30.0", "40 / 12", "–", "test",
    ]  # fmt: skip
    assert [text for _, text in cells[1]][-3:] == ["– / –", "5", "test, 4 folds"]
    assert [[kind for kind, _ in line if "best" in kind] for line in cells] == [["n best"], ["n best"]]
    assert (cells[0][3][0], cells[1][6][0]) == ("n best", "n best")


def test_the_note_names_the_neighbours_and_baselines_are_plain():
    html = probes_section([row(100), row(100, weights="random", knn={"accuracy": 0.1, "k": 5})])
    assert "k = 5, 20" in html and html.count('<tr class="plain">') == 1
    one, other = html.split("<tbody>")[1].split("</tr>")[:2]
    assert 'class="plain"' not in one and "random" in other
