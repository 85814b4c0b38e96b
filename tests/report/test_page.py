import base64
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mae_ext.config import load_config
from mae_ext.errors import UserError
from mae_ext.probing.probe import probe
from mae_ext.probing.spec import ProbeSpec
from mae_ext.report.document import duration
from mae_ext.report.page import write_report
from mae_ext.report.pictures import reconstruct

MakeRun = Callable[..., Path]


def steps(count: int, **more: Any) -> str:
    return "".join(
        json.dumps(
            {
                "step": i,
                "epoch": i / 9,
                "loss": 1.5 - i / 1000,
                "lr": 1e-4,
                "grad_norm": 1.0,
                "samples_per_s": 100.0,
                "data_wait": 0.002,
                "seconds": 0.04,
                **more,
            }
        )
        + "\n"
        for i in range(1, count + 1)
    )


class Checked(HTMLParser):
    """Every tag that opens closes, and all that a browser would fetch is listed."""

    VOID = frozenset({"meta", "img", "line", "rect", "circle", "polyline", "polygon", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.text: list[str] = []
        self.tags: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for key, value in attrs if key in ("src", "href", "xlink:href", "data", "srcset")]
        assert not any(key.startswith("on") for key, _ in attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)


def read(run: Path) -> Checked:
    return Checked(write_report(run).read_text(encoding="utf-8"))


def test_a_whole_run_is_on_the_page(make_run: MakeRun, striped: Path) -> None:
    run = make_run()
    (run / "metrics.jsonl").write_text(steps(300))
    reconstruct(run, [striped / "test"], run / "pictures")
    probe(run, ProbeSpec(str(striped / "train"), str(striped / "test")))
    probe(run, ProbeSpec(str(striped / "train"), str(striped / "test")), baseline="random")
    bad = {"step": 3, "modality": "image", "path": "photos/7.jpg", "kind": "truncated", "detail": "12 of 33 kB"}
    (run / "bad_samples.jsonl").write_text(json.dumps(bad) + "\n")
    page = read(run)
    text = " ".join(page.text)
    for wanted in (
        *("300", "1.2245", "5.0%", "photos/7.jpg", "truncated", "12 of 33 kB", "step-00000007", "random", "pretrained"),
        *("3×4 = 12, 3 visible", "24 wide", "learning rate", "gradient norm", "samples per second", "torch"),
    ):
        assert wanted in text, wanted
    assert page.tags.count("img") == 13 and page.tags.count("svg") == 5


def test_the_page_asks_nothing_of_the_network(make_run: MakeRun, striped: Path) -> None:
    run = make_run()
    (run / "metrics.jsonl").write_text(steps(5))
    reconstruct(run, [striped / "test" / "down"], run / "pictures")
    html = write_report(run).read_text()
    assert all(source.startswith("data:image/") for source in Checked(html).fetched)
    assert "http://" not in html and "https://" not in html and "url(" not in html.replace("url(#clip", "")


def test_text_from_outside_cannot_become_markup(make_run: MakeRun) -> None:
    attack = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"
    run = make_run(name='a<b>&"run')
    row = {"step": attack, "modality": attack, "path": attack, "kind": attack, "detail": attack}
    (run / "bad_samples.jsonl").write_text(json.dumps(row) + "\n")
    parts = {"linear": {"accuracy": attack}, "knn": {"accuracy": 0.5, "k": attack}}
    (run / "probes.jsonl").write_text(json.dumps({"step": attack, "weights": attack, "test": attack, **parts}) + "\n")
    (run / "metrics.jsonl").write_text(steps(3, **{f"loss/{attack}": 1.0}))
    (run / "pictures").mkdir()
    (run / "pictures" / "a\"onerror='x'.png").write_bytes(b"not checked here")
    with (run / "config.yaml").open("a") as file:
        file.write(f"# {attack}\n")
    page = read(run)
    assert page.tags.count("script") == 1 and page.tags.count("img") == 1
    assert attack in page.text


def test_a_run_that_has_only_begun_has_a_page(tmp_path: Path, make_config: Callable[..., Any]) -> None:
    (tmp_path / "config.yaml").write_text(make_config().to_yaml())
    page = read(tmp_path)
    assert "no steps logged yet" in " ".join(page.text) and "svg" not in page.tags


def test_a_line_still_being_written_is_left_out_in_silence(make_run: MakeRun) -> None:
    run = make_run()
    (run / "metrics.jsonl").write_text(steps(20)[:-30])
    text = " ".join(read(run).text)
    assert "19 steps logged" in text and "not JSON" not in text


def test_a_broken_line_in_the_middle_is_counted(make_run: MakeRun) -> None:
    run = make_run()
    (run / "metrics.jsonl").write_text(steps(5) + '{"step": 6, "lo\n[1]\n' + steps(5))
    text = " ".join(read(run).text)
    assert "5 steps logged" in text and "2 lines are not JSON objects" in text


def test_a_config_of_a_plugin_that_is_not_installed_still_gives_a_page(make_run: MakeRun) -> None:
    run = make_run()
    (run / "metrics.jsonl").write_text(steps(5))
    config = run / "config.yaml"
    config.write_text(re.sub(r"name: random", "name: not_installed_here", config.read_text()))
    text = " ".join(read(run).text)
    assert "5 steps logged" in text and "unknown masker 'not_installed_here'" in text


def test_losses_that_are_not_finite_are_said_and_not_drawn(make_run: MakeRun) -> None:
    run = make_run()
    (run / "metrics.jsonl").write_text(steps(5) + json.dumps({"step": 6, "loss": float("nan")}) + "\n")
    html = write_report(run).read_text()
    assert "1 not finite" in html
    assert not re.search(r'points="[^"]*nan', html)


def test_every_modality_of_a_joint_run_has_its_curve(make_run: MakeRun) -> None:
    run = make_run()
    (run / "metrics.jsonl").write_text(steps(5, **{"loss/photos": 1.0, "loss/clips": 2.0}))
    html = write_report(run).read_text()
    assert "loss by modality" in html and 'data-name="photos"' in html and 'data-name="clips"' in html


def test_what_a_fine_tuned_run_scores_on_held_out_data_is_on_the_page(make_run: MakeRun) -> None:
    run = make_run()
    assert "Scores on held-out data" not in write_report(run).read_text()
    rows = [{"step": s, "samples": 40, "dice": d, "dice/<i>": 1 - d} for s, d in ((10, 0.25), (20, 0.75), (30, 0.5))]
    (run / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    html = write_report(run).read_text()
    text = " ".join(Checked(html).text)
    assert "Scores on held-out data" in text
    assert "at step 30" in text
    assert '<td>dice</td><td class="n">0.5000</td><td class="n">0.2500 (10)</td><td class="n">0.7500 (20)</td>' in html
    assert "0.7500 (20)" in text  # the best was not the last
    assert "0.2500 (10)" in text
    assert "samples" not in [name for name, *_ in re.findall(r"<td>(.*?)</td>", html)]
    assert "<i>" not in html


def test_a_run_stopped_by_a_nonfinite_loss_says_so(make_run: MakeRun) -> None:
    run = make_run()
    (run / "failure-00000012").mkdir()
    (run / "failure-00000012" / "record.json").write_text("{}")
    assert "failure-00000012/record.json" in " ".join(read(run).text)


def test_many_bad_samples_and_pictures_are_cut_with_their_number(make_run: MakeRun) -> None:
    run = make_run()
    rows = ({"step": i, "path": f"{i}.jpg", "kind": "empty", "detail": ""} for i in range(230))
    (run / "bad_samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "pictures").mkdir()
    for i in range(20):
        (run / "pictures" / f"{i:02d}.png").write_bytes(b"x")
    text = " ".join(read(run).text)
    assert "and 30 more files" in text and "8 more in pictures/" in text


def test_a_file_that_several_ranks_met_is_one_file_first_met_by_the_first(make_run: MakeRun) -> None:
    run = make_run()
    for name, step in (("bad_samples.1.jsonl", 90), ("bad_samples.jsonl", 30)):
        row = {"step": step, "path": "a.jpg", "kind": "damaged", "detail": ""}
        (run / name).write_text(json.dumps(row) + "\n")
    text = " ".join(read(run).text)
    assert "damaged 1 " in text and " 30 " in text and " 90 " not in text


def test_a_fine_tuned_run_is_described_by_its_task_and_hides_nothing(make_run: MakeRun) -> None:
    run = make_run()
    config = load_config(run / "config.yaml", ["task=classify"])
    (run / "config.yaml").write_text(config.to_yaml())
    text = " ".join(read(run).text)
    assert "3×4 = 12" in text and "visible" not in text and "decoder" not in text.partition("config.yaml")[0]


def test_only_run_directories_are_reported_on(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run directory"):
        write_report(tmp_path / "missing")
    with pytest.raises(UserError, match=r"neither config\.yaml nor metrics\.jsonl"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_the_facts_of_a_run_are_its_own(make_run: MakeRun) -> None:
    """Losses 3 .. 1 over 100 steps of 0.5 s, of which every tenth waits for data for all of it."""
    run = make_run()
    rows = [
        {
            "step": i, "epoch": i / 40, "loss": 3 - 0.02 * i, "lr": 1e-4, "grad_norm": 1.0,
            "samples_per_s": 50.0 + i, "data_wait": 0.5 if i % 10 == 0 else 0.0, "seconds": 0.5,
            "loader/read": 0.25, "loader/decode": 0.75,
        }
        for i in range(1, 101)
    ]  # fmt: skip
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("bad_samples.jsonl", "bad_samples.1.jsonl"):
        (run / name).write_text(json.dumps({"step": 3, "path": "a.jpg", "kind": "empty", "detail": ""}) + "\n")
    html = write_report(run).read_text()
    facts = dict(re.findall(r"<div class=\"fact\"><span>(.*?)</span><b>(.*?)</b>", html))
    notes = dict(re.findall(r"<div class=\"fact\"><span>(.*?)</span><b>.*?</b><small>(.*?)</small>", html))
    assert (facts["steps"], notes["steps"], facts["epochs"]) == ("100", "of 10", "2.5")
    assert (facts["loss"], notes["loss"]) == ("1.4900", "last 50 steps; first 2.9800")
    assert (facts["throughput"], facts["waiting for data"], facts["time in steps"]) == ("100.5/s", "10.0%", "50 s")
    assert (facts["making batches"], notes["making batches"]) == ("1 min 40 s", "by stage: read 25%, decode 75%")
    assert notes["waiting for data"].endswith("median step 0.0%") and facts["bad samples"] == "1"
    text = " ".join(Checked(html).text)
    assert "samples/s: 5 %, median, 95 % 55.95 · 100.5 · 145.1" in text
    assert "data wait: median, worst step 0.0% · 100.0%" in text and "steps that waited over 20 % 10 of 100" in text
    assert "samples seen 400" in text and "1.00% of all" in text


def test_of_a_run_in_epochs_the_page_says_how_many_steps_they_are(make_run: MakeRun) -> None:
    run = make_run()
    config = load_config(run / "config.yaml", ["train.steps=null", "train.epochs=30"])
    (run / "config.yaml").write_text(config.to_yaml())
    (run / "metrics.jsonl").write_text(steps(18))  # 2 epochs
    assert "of 270" in write_report(run).read_text()


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(59.4, "59 s"), (60, "1 min 00 s"), (3599, "59 min 59 s"), (3600, "1 h 00 min"), (98_765, "27 h 26 min")],
)
def test_durations_are_said_in_the_units_people_use(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_the_setup_is_the_configs(make_run: MakeRun) -> None:
    run = make_run(decode={"name": "random", "ratio": 0.5})
    sets = [
        "train.accumulate=2",
        "train.lr=0.0256",
        "train.betas=[0.8,0.99]",
        "train.warmup_steps=3",
        "train.precision=bf16",
    ]
    (run / "config.yaml").write_text(load_config(run / "config.yaml", sets).to_yaml())
    html = write_report(run).read_text()
    pairs = dict(re.findall(r"<tr><th>(.*?)</th><td>(.*?)</td></tr>", html))
    assert pairs["image"] == "24×16 × 3 channels, patch 8×4" and pairs["tokens"] == "3×4 = 12, 3 visible"
    assert (pairs["mask"], pairs["decode"], pairs["target"]) == ("random (ratio 0.75)", "random (ratio 0.5)", "pixel")
    assert pairs["statistics"] == "mean 0.5, 0.4, 0.6, std 0.2, 0.3, 0.25" and pairs["data"] == "photos"
    assert (pairs["encoder"], pairs["decoder"]) == ("24 wide, 2 deep, 2 heads", "16 wide, 1 deep, 2 heads")
    assert (pairs["length"], pairs["batch"]) == ("10 steps, warm-up 3 steps", "4 in 2 parts")
    assert pairs["peak learning rate"] == "4e-4 (base 0.0256)"  # 0.0256 * 4 / 256
    assert pairs["AdamW"] == "weight decay 0.05, betas 0.8 and 0.99" and pairs["precision"] == "bf16"


def test_pictures_are_those_of_the_files_and_the_overview_comes_first(make_run: MakeRun) -> None:
    run = make_run()
    (run / "pictures").mkdir()
    for name in ("0000_b.png", "0001_a.gif", "overview.png", "notes.txt"):
        (run / "pictures" / name).write_bytes(name.encode())
    found = re.findall(r'<img src="data:(.*?);base64,(.*?)" alt="(.*?)">', write_report(run).read_text())
    assert [(kind, base64.b64decode(code).decode(), alt) for kind, code, alt in found] == [
        ("image/png", "overview.png", "overview"),
        ("image/png", "0000_b.png", "0000_b"),
        ("image/gif", "0001_a.gif", "0001_a"),
    ]


def test_checkpoints_are_listed_with_their_step_and_the_newest_ones_versions(make_run: MakeRun) -> None:
    html = write_report(make_run()).read_text()
    assert re.search(r'<td>step-00000007</td><td class="n">7</td><td class="n">0\.\d</td>', html)
    assert re.search(r"<td>torch</td><td>2\.\d+", html)
