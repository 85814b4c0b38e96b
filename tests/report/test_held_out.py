"""The loss on held-out data stands in the chart of the loss in training, where both are the same loss."""

import json
import re

import pytest

from mae_ext.report.page import write_report


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def page(make_config, tmp_path):
    def of(scores, losses=("loss",), task="pretrain", modalities=1):
        config = make_config()
        (image,) = config.modalities.values()
        more = {"modalities": {f"m{i}": image for i in range(modalities)}}
        changed = config.model_copy(update={**more, "task": config.task.model_copy(update={"name": task})})
        (tmp_path / "config.yaml").write_text(changed.to_yaml())
        metrics = [{"step": s, **dict.fromkeys(losses, 1 / s)} for s in (1, 2, 3, 4)]
        (tmp_path / "metrics.jsonl").write_text(lines(*metrics))
        (tmp_path / "evaluations.jsonl").write_text(lines(*scores))
        return write_report(tmp_path).read_text()

    return of


def charts(html):
    """title -> the curves in it, by name."""
    figures = re.findall(r"<figcaption><b>(.*?)</b>.*?</figure>", html, re.DOTALL)
    found = re.findall(r"<figure class=\"chart.*?</figure>", html, re.DOTALL)
    return {title: re.findall(r'data-name="(.*?)"', figure) for title, figure in zip(figures, found, strict=True)}


def test_it_is_a_curve_beside_the_loss_and_a_row_and_no_chart_of_its_own(page):
    html = page([{"step": 2, "loss": 0.75}, {"step": 4, "loss": 0.5}])
    assert charts(html) == {"loss": ["loss", "held out"]}
    assert ";2;0.75|" in html and ";4;0.5<" in html
    assert re.search(r"<td>loss</td><td class=\"n\">0.5000</td><td class=\"n\">0.5000 \(4\)</td>", html)


def test_of_several_modalities_each_is_beside_its_own_and_a_sum_over_fewer_beside_nothing(page):
    both = {"step": 2, "loss": 0.75, "loss/m0": 0.5, "loss/m1": 0.25}
    drawn = charts(page([both], ("loss", "loss/m0", "loss/m1"), modalities=2))
    assert drawn == {"loss": ["loss", "held out"], "loss by modality": ["m0", "m1", "m0, held out", "m1, held out"]}
    one = {"step": 2, "loss": 0.25, "loss/m1": 0.25}
    drawn = charts(page([one], ("loss", "loss/m0", "loss/m1"), modalities=2))
    assert drawn == {"loss": ["loss"], "loss by modality": ["m0", "m1", "m1, held out"]}


def test_the_loss_of_a_task_is_another_one_and_has_its_own_chart(page):
    html = page([{"step": s, "loss": 0.75, "samples": 3.0} for s in (2, 4)], task="classify")
    assert re.findall(r"<figcaption><b>(.*?)</b>", html) == ["loss", "loss"] and "held out" not in html


def test_the_best_checkpoint_is_named_and_a_note_that_cannot_be_read_is_said(page, tmp_path):
    (tmp_path / "best.json").write_text('{"step": 2, "checkpoint": "step-00000002", "loss": 0.25}')
    checkpoint = tmp_path / "checkpoints" / "step-00000002"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text('{"step": 2}')
    html = page([{"step": 2, "loss": 0.25}])
    assert "<span>best on held-out data</span><b>0.2500</b><small>loss at step 2</small>" in html
    assert "step-00000002, the best" in html
    for text in (
        "{",
        "[]",
        '{"step": 2, "checkpoint": "step-00000002"}',
        '{"step": 2, "checkpoint": "x", "loss": null}',
    ):
        (tmp_path / "best.json").write_text(text)
        html = page([])
        assert "best.json cannot be read" in html and "the best<" not in html
