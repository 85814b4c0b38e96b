"""What is said in words holds for any table: every statement is held against figures reckoned again."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_ext.worth import outcome
from mae_ext.worth.intervals import Estimate, Estimates
from mae_ext.worth.outcome import ARMS, Asked, Outcome
from mae_ext.worth.sentence import MARGIN, NAMES, PRETRAINED, UNTAUGHT, findings, phrase, points, verdict

LEVELS = {"1 a class": 2, "10 a class": 20, "all": 200}
BY_PHRASE = {phrase(labels): labels for labels in LEVELS}
BY_NAME = {name: arm for arm, name in NAMES.items()}
NUMBER = r"(-?\d+\.\d)"


def study(rates, n, seeds=1, seed=0):
    """rates: {(arm, labels): how often it is right}."""
    outcomes = []
    for (arm, labels), rate in rates.items():
        for one in range(seeds):
            chance = np.random.default_rng((seed, one, list(LEVELS).index(labels), ARMS.index(arm)))
            hits = (chance.random(n) < rate).astype(np.int64)
            judged = {"row": np.arange(n), "true": np.ones_like(hits), "predicted": hits}
            asked = Asked(arm, labels, LEVELS[labels], one)
            outcomes.append(Outcome(asked, "accuracy", float(hits.mean()), 1.0, judged))
    return Estimates(outcome.Tested("classify", "accuracy", ("a", "b"), tuple(map(str, range(n))), None), outcomes)


def mean_of(estimates, arm, labels, over, other):
    """The means over the seeds of both, in points, from the outcomes themselves."""
    mine, theirs = estimates.cells[arm, labels], estimates.cells[over, other]
    both = sorted(set(mine) & set(theirs))
    return [100 * sum(cell[seed].value for seed in both) / len(both) for cell in (mine, theirs)]


tables = st.fixed_dictionaries(
    {
        "rates": st.dictionaries(
            st.tuples(st.sampled_from(ARMS), st.sampled_from([*LEVELS])),
            st.sampled_from([0.0, 0.3, 0.5, 0.52, 0.9, 1.0]),
            max_size=8,
        ),
        "n": st.sampled_from([1, 2, 7, 40, 300]),
        "seeds": st.integers(1, 3),
        "seed": st.integers(0, 99),
    }
)  # fmt: skip


@settings(max_examples=15, deadline=None, derandomize=True)
@given(tables)
def test_every_statement_agrees_with_the_figures_whatever_the_table(table):
    estimates = study(**table)
    said = findings(estimates)
    arms = {labels: {arm for arm, name in estimates.cells if name == labels} for labels in estimates.labels}
    comparable = [name for name, own in arms.items() if own & {*PRETRAINED} and own - {*PRETRAINED}]
    assert [one.labels for one in said.gains] == comparable
    text = said.sentences[0]
    who = "|".join(["pretraining", "it", "that", *(NAMES[arm] for arm in PRETRAINED)])
    parts = re.findall(rf"[Ww]ith ([^;()]*?) ({who}) ([^()]*?) \(([^()]*); ([^;()]*)\)", text)
    assert len(parts) == len(comparable) or text.startswith("Nothing can be told yet")
    for words, subject, what, interval, both in parts:
        labels = BY_PHRASE[words]
        (one,) = [gain for gain in said.gains if gain.labels == labels]
        (mine, theirs) = mean_of(estimates, one.arm, labels, one.over, labels)
        names, shown = re.findall(r"(.+?) (\d+\.\d)(?:, |$)", both), (mine, theirs)
        assert [BY_NAME[name] for name, _ in names] == [one.arm, one.over]
        assert [float(value) for _, value in names] == pytest.approx(shown, abs=0.0501)
        assert (
            mine
            >= max(s.value for arm in arms[labels] & {*PRETRAINED} if (s := estimates.score(arm, labels))) * 100 - 1e-4
        )
        ends = [float(end) for end in re.findall(NUMBER, interval)]
        if "gains nothing" in what:
            assert ends[0] <= 0 <= ends[1] and ends[0] >= -MARGIN and ends[1] <= MARGIN
        elif "cannot be told" in what:
            assert "test sample" in interval and "seed" in interval
            assert not ends or (ends[0] <= 0 <= ends[1] and (ends[0] < -MARGIN or ends[1] > MARGIN))
        else:
            below = re.fullmatch(rf"is {NUMBER} points below (.+)", what)
            assert bool(below) == ("gains" not in what and one.over in UNTAUGHT)  # which is no loss by pretraining
            assert not below or (subject, below[2]) == (NAMES[one.arm], NAMES[one.over])
            size = float(re.search(NUMBER, what)[1]) * (1 if "gains" in what else -1)
            assert size == pytest.approx(mine - theirs, abs=0.0501) and ends[0] <= size <= ends[1]
            assert (ends[0] > 0) if "gains" in what else (ends[1] < 0)
    if said.saving is not None:
        s = said.saving
        assert any((one.labels, one.verdict) == (s.labels, "gains") for one in said.gains)
        mine, theirs = mean_of(estimates, s.arm, s.labels, s.over, s.other)
        assert mine >= theirs - 1e-4 and LEVELS[s.other] > LEVELS[s.labels] and 100 * s.estimate.low >= -MARGIN - 0.05
        best = max(estimates.score(arm, s.other).value for arm in arms[s.other] - {*PRETRAINED})
        assert estimates.score(s.over, s.other).value == best
    warned = {(one.labels, one.over) for one in said.cheap}
    for labels in comparable:
        top = next(gain.arm for gain in said.gains if gain.labels == labels)
        for arm in arms[labels] & {*UNTAUGHT}:
            low = estimates.gain(top, arm, labels).low
            assert ((labels, arm) in warned) == (low is None or points(low) <= 0)


@given(st.floats(-1, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_verdict_is_of_the_interval_as_it_is_printed(value, below, above):
    low, high = max(-1.0, value - below), min(1.0, value + above)
    got, shown = verdict(Estimate(value, low, high, None, 1, 99)), (points(low), points(high))
    assert (got == "gains") == (shown[0] > 0) and (got == "loses") == (shown[1] < 0)
    assert (got == "nothing") == (-MARGIN <= shown[0] <= 0 <= shown[1] <= MARGIN)


@given(st.floats(-1, 1))
def test_points_are_a_hundredth_each_and_of_a_kept_share_the_same_but_at_a_tie(share):
    assert abs(points(share) - 100 * share) <= 0.0501
    tie = abs((1000 * share) % 1 - 0.5) < 0.01
    assert tie or points(round(share, 6)) == points(share)


def test_a_share_is_in_points_what_it_is_after_it_was_kept():
    mean = (0.565 + 0.68 + 0.6675) / 3
    assert mean != 0.6375 and round(100 * mean, 1) != round(100 * 0.6375, 1)  # or this shows nothing
    assert points(mean) == points(0.6375) == 63.8


def test_a_plain_gain_and_a_tie_read_as_one_sentence():
    rates = {
        ("finetuned", "10 a class"): 0.9,
        ("scratch", "10 a class"): 0.3,
        ("frozen", "all"): 1.0,
        ("raw", "all"): 1.0,
    }
    said = findings(study(rates, 900))
    assert re.fullmatch(
        r"With 10 labels a class pretraining gains 58\.9 points \(interval 5\d\.\d to 6\d\.\d, of one seed; "
        r"fine-tuned (8|9)\d\.\d, from scratch (2|3)\d\.\d\); with all labels it gains nothing "
        r"\(interval -0\.3 to 0\.3, of one seed; frozen encoder 100\.0, raw values 100\.0\)\.",
        said.sentences[0],
    )
    assert said.saving is None and "the cheap baseline cannot be told from the best" in said.warnings[0]


def test_a_curve_that_bears_out_a_saving_says_how_many_times_the_labels():
    rates = {("finetuned", "1 a class"): 0.8, ("scratch", "10 a class"): 0.6, ("scratch", "all"): 0.79}
    rates |= {("finetuned", "all"): 0.95, ("scratch", "1 a class"): 0.4}
    said = findings(study(rates, 900, seed=3))
    assert (said.saving.labels, said.saving.other) == ("1 a class", "all")
    assert (
        "With 1 label a class pretraining does as well as anything without it with all labels, 100 times as many"
        in (said.sentences[1])
    )


def test_a_saving_that_a_number_between_denies_is_not_claimed():
    rates = {("finetuned", "1 a class"): 0.8, ("scratch", "10 a class"): 0.99, ("scratch", "all"): 0.5}
    assert findings(study(rates | {("scratch", "1 a class"): 0.2}, 900)).saving is None


def test_no_saving_is_pretraining_s_where_something_else_is_as_good_with_as_few_labels():
    rates = {("frozen", "1 a class"): 0.8, ("mean_image", "10 a class"): 0.6, ("frozen", "10 a class"): 0.8}
    assert findings(study(rates | {("mean_image", "1 a class"): 0.4}, 900)).saving is not None
    assert findings(study(rates | {("mean_image", "1 a class"): 0.8}, 900)).saving is None
    assert findings(study(rates | {("mean_image", "1 a class"): 0.79}, 900)).saving is None  # too close to be told


@pytest.mark.parametrize(
    ("arm", "others", "missing"),
    [
        ("finetuned", ["raw", "majority"], "`scratch`"), ("finetuned", ["random"], "`scratch`"),
        ("finetuned", ["scratch"], None), ("finetuned", ["raw", "scratch"], None),
        ("frozen", ["mean_image"], "`random` and `scratch`"), ("frozen", ["random"], None),
        ("frozen", ["scratch"], None),
    ],
)  # fmt: skip
def test_a_gain_without_a_rival_that_has_the_same_network_says_which_was_not_run(arm, others, missing):
    rates = {(arm, "all"): 0.9} | {(other, "all"): 0.3 - 0.1 * i for i, other in enumerate(others)}
    said = findings(study(rates, 900))
    assert said.gains[0].verdict == "gains"
    if missing is None:
        assert said.warnings == ()
    else:
        (text,) = said.warnings
        assert f"what {NAMES[arm]} gains over {NAMES[others[0]]} may be no merit" in text and f"out {missing}," in text


@pytest.mark.parametrize(("answers", "names"), [([0, 0], "'a'"), ([0, 1], "'a' or 'b', by seed,"), ([0, None], None)])
def test_an_encoder_with_one_answer_for_everything_is_said_to_tell_nothing_apart(answers, names):
    """answers: of each seed the one that it gives, or None for both."""
    estimates = study({("frozen", "1 a class"): 0.5, ("raw", "1 a class"): 0.5}, 40, seeds=2)
    for answer, one in zip(answers, estimates.cells["frozen", "1 a class"].values(), strict=True):
        one.judged["true"][:20] = 0
        one.judged["predicted"][:] = np.arange(40) % 2 if answer is None else answer
    said = [text for text in findings(estimates).warnings if "tells no classes apart" in text]
    assert [f"frozen encoder answers {names} whatever it is shown" in text for text in said] == [True] * bool(names)
    for one in estimates.cells["frozen", "1 a class"].values():
        one.judged["true"][:] = 1  # a test of one class, of which all may be the same
    assert not [text for text in findings(estimates).warnings if "tells no classes apart" in text]


@pytest.mark.parametrize(("trained", "n", "said_so"), [(0.5, 400, True), (0.9, 400, False), (0.84, 40, False)])
def test_a_training_that_ends_clearly_below_the_encoder_it_began_from_is_said(trained, n, said_so):
    said = findings(study({("frozen", "all"): 0.9, ("finetuned", "all"): trained, ("scratch", "all"): 0.3}, n))
    assert any("fine-tuning ends below the encoder" in text for text in said.warnings) == said_so
