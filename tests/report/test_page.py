import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mae_ext.config import load_config
from mae_ext.downstream.probe import probe
from mae_ext.errors import UserError
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
    probe(run, str(striped / "train"), str(striped / "test"))
    probe(run, str(striped / "train"), str(striped / "test"), baseline="random")
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
