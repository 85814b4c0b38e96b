"""The page of a study, made by the real code from outcomes, and what the page of a run says of it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from report.test_page import Checked

from mae_ext.errors import UserError
from mae_ext.report.learning import RIGHT, Line, Point, learning_curves
from mae_ext.report.page import write_report
from mae_ext.report.worth import write_worth
from mae_ext.worth import outcome
from mae_ext.worth.intervals import Estimates
from mae_ext.worth.outcome import Asked, Outcome
from mae_ext.worth.sentence import NAMES, findings

RATES = {"finetuned": (0.5, 0.8), "scratch": (0.1, 0.7), "raw": (0.3, 0.3)}


def write_study(folder: Path, source: str = "cells/train") -> dict[str, object]:
    folder.mkdir(parents=True)
    outcomes = []
    for arm, rates in RATES.items():
        for rate, labels, count in zip(rates, ("1 a class", "all"), (2, 900), strict=True):
            hits = (np.arange(400) < rate * 400).astype(np.int64)
            judged = {"row": np.arange(400), "true": np.ones_like(hits), "predicted": hits}
            outcomes.append(Outcome(Asked(arm, labels, count, 0), "accuracy", rate, 2.0, judged))
    estimates = Estimates(outcome.Tested("classify", "accuracy", ("a", "b"), (*map(str, range(400)),), None), outcomes)
    table = [
        {"labels": labels, "count": estimates.count(labels), "arm": arm, "minutes": 2.0} | vars(score)
        for labels in estimates.labels
        for arm in RATES
        if (score := estimates.score(arm, labels))
    ]
    rate = {"side": "scratch", "sets": ["train.lr=0.001"], "value": 0.4, "taken": True, "why": "highest of 3"}
    said = findings(estimates).to_json()
    result = {
        "run": {"path": "runs/cells"}, "source": {"path": source, "samples": 900, "unit": "picture"},
        "tested": {"path": "cells/test", "samples": 400, "groups": None}, "kind": "classify", "score": "accuracy",
        "classes": ["a", "b"], "config": {}, "rates": [rate], "table": table, "findings": said, "minutes": 12.0,
        "command": "mae-ext worth runs/cells --task classify",
    }  # fmt: skip
    (folder / "worth.json").write_text(json.dumps(result))
    return result


def test_the_page_has_the_sentence_on_top_the_table_the_curves_and_the_command(tmp_path: Path) -> None:
    result = write_study(tmp_path / "study")
    html = write_worth(tmp_path / "study").read_text()
    page = Checked(html)
    text = " ".join(page.text)
    assert page.fetched == [] and result["findings"]["sentences"][0] in text  # type: ignore[index]
    assert text.index("pretraining gains 20.0 points") < text.index("Curves")
    assert "1 a class 2 samples 50.0 [45.0, 55.0] one seed 10.0" in text
    assert "mae-ext worth runs/cells --task classify" in text and "train.lr=0.001" in text and "12 min 00 s" in text
    assert re.search(r"1 a class \(2\).*all \(900\)", text)


def test_the_longest_name_fits_beside_the_curves() -> None:
    """A letter of a name is 6.4 units wide in the mean, measured in a browser; 41 units are the mark before it."""
    longest = max(len(f"{name} 100.0") for name in NAMES.values())
    assert 41 + 6.4 * longest <= RIGHT


def test_text_from_a_study_is_escaped(tmp_path: Path) -> None:
    write_study(tmp_path / "study", source="cells/<script>x")
    html = write_worth(tmp_path / "study").read_text()
    assert "<script>x" not in html and "&lt;script&gt;x" in html


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"findings": 3}', '{"findings": {"sentences": []}}'])
def test_what_is_no_result_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "worth.json").write_text(content)
    with pytest.raises(UserError, match=r"worth\.json: is no result of `mae-ext worth`"):
        write_worth(tmp_path)


def test_a_folder_without_a_result_says_what_writes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is none; `mae-ext worth` writes it"):
        write_worth(tmp_path)


def test_the_page_of_a_run_quotes_its_studies_and_links_their_pages(make_run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    run = make_run()
    result = write_study(run / "worth" / "first one")
    write_study(run / "worth" / "second")
    (run / "worth" / "third").mkdir()
    (run / "worth" / "third" / "worth.json").write_text("half")
    write_worth(run / "worth" / "first one")
    page = Checked(write_report(run).read_text())
    links = [link for link in page.fetched if not link.startswith("data:")]
    assert links == ["worth/first%20one/worth.html"] and (run / "worth" / "first one" / "worth.html").is_file()
    text = " ".join(page.text)
    assert text.count(result["findings"]["sentences"][0]) == 2  # type: ignore[index]
    assert "third/worth.json: is no result" in text


def test_a_curve_lies_where_its_numbers_are_on_a_logarithmic_axis() -> None:
    points = tuple(Point(count, f"{count}", value, None, None) for count, value in ((1, 20.0), (10, 40.0), (100, 60.0)))
    html = learning_curves([Line("scratch", "from scratch", points)], "accuracy")
    (path,) = re.findall(r'<polyline points="([^"]+)" fill="none" stroke="#d55e00" stroke-width="2.4"', html)
    (x1, y1), (x2, y2), (x3, y3) = (tuple(map(float, pair.split(","))) for pair in path.split())
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2) and y1 - y2 == pytest.approx(y2 - y3, abs=0.2) and y1 > y3
    assert learning_curves([], "accuracy") == ""


def test_names_at_the_ends_of_lines_do_not_cover_each_other() -> None:
    arms = ("finetuned", "frozen", "scratch", "random", "raw", "majority")
    lines = [Line(arm, arm, (Point(1, "1", 50 + i / 10, None, None),)) for i, arm in enumerate(arms)]
    html = learning_curves([*lines, Line("mean_image", "m", (Point(1, "1", 10.0, None, None),))], "accuracy")
    heights = sorted(float(y) for y in re.findall(r'y="([\d.]+)" class="name"', html))
    assert len(heights) == 7 and min(np.diff(heights)) > 15.9
