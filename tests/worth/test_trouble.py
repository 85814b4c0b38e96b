"""What goes wrong in a study, or lies in its way: it is one line, before the work, and nothing of anybody's is lost."""

import json
import re
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from subprocess import run

import pytest
from worth.test_study import command, made

from mae_ext.errors import ConfigError, RunError, UserError
from mae_ext.report.worth import write_worth
from mae_ext.worth.arms import stepped
from mae_ext.worth.outcome import from_json, to_json
from mae_ext.worth.rates import best
from mae_ext.worth.readable import Readable
from mae_ext.worth.run import planned, worth
from mae_ext.worth.study import place_of, study_of
from mae_ext.writing import folder_for, locked


@pytest.fixture
def own(striped, tmp_path):
    """The stripes, to be damaged, and the arguments of a study of them."""
    folder = tmp_path / "striped"
    shutil.copytree(striped, folder)
    return folder, {"data": str(folder / "train"), "test": str(folder / "test")}


def spoil(*paths):
    for path in paths:
        path.write_bytes(path.read_bytes()[:40])


def allowing(share):
    return (f"modalities.image.data.max_bad_fraction={share}",)


def drawn(one):
    """Addresses that seed 0 draws of the smallest number of labels."""
    return [one.labels.items.addresses[row] for row in one.whole.drawn(one.levels[0][0], 0).rows]


def test_a_file_that_cannot_be_read_is_in_no_draw_and_another_takes_its_place(wish, own):
    arms = {"arms": "raw,scratch,frozen", "labels": "3", **own[1], "sets": allowing(0.05)}
    before = drawn(study_of(wish(**arms)))
    spoil(Path(before[0]))
    one = study_of(wish(**arms, out=own[0] / "out"))
    assert len(drawn(one)) == 9 and set(before) - set(drawn(one)) == {before[0]}
    assert [row["count"] for row in made(one)[0]["rows"]] == [9, 9, 9]


@pytest.mark.parametrize("side", ["train", "test"])
def test_more_unreadable_files_than_are_borne_are_said_before_anything_is_made(wish, own, side):
    spoil(next(own[0].glob(f"{side}/*/*.png")))
    one = wish(labels="all", arms="scratch", **own[1])
    with pytest.raises(RunError, match=rf"{side}: 1 of \d+ samples cannot be used.*1 damaged"):
        study_of(one)
    assert not (one.out / "trials").exists()
    study_of(replace(one, sets=allowing(0.1)))


def test_a_class_of_which_no_sample_can_be_read_is_not_there(wish, own):
    spoil(*own[0].glob("train/down/*.png"))
    with pytest.raises(UserError, match="class 'down' has 0 labelled pictures that can be read; ask for fewer"):
        study_of(wish(labels="1", arms="frozen", sets=allowing(0.9), **own[1]))


def test_what_could_be_read_is_not_read_again_and_what_could_not_is(wish, own, monkeypatch):
    broken = next(own[0].glob("train/*/*.png"))
    whole = broken.read_bytes()
    first = wish(labels="all", arms="majority", **own[1])
    spoil(broken)
    for _ in range(2):
        with pytest.raises(RunError, match="train: 1 of 36 samples cannot be used"):
            study_of(first)
    broken.write_bytes(whole)
    study_of(first)
    monkeypatch.setattr(Readable, "_read", lambda self, row: pytest.fail("read again"))
    study_of(first)
    with pytest.raises(pytest.fail.Exception, match="read again"):  # of another reader nothing is known yet
        study_of(replace(first, sets=("modalities.image.data.reader.max_pixels=1000000",)))


@pytest.mark.parametrize(
    "content", ["", "[]", "5", "null", '{"KEY": {}}', '{"KEY": 5}', '{"KEY": [[1], "a", null]}', "[" * 100_000]
)
def test_what_was_damaged_in_what_is_known_is_read_again(wish, content):
    first = wish(labels="1", arms="majority")
    study_of(first)
    known = first.out / "readable.json"
    key = next(iter(json.loads(known.read_text())))
    known.write_text(content.replace("KEY", key))
    study_of(first)
    assert len(json.loads(known.read_text())[key]) == 3


def test_arms_that_encode_all_samples_have_all_looked_at(wish, own):
    before = drawn(study_of(wish(arms="raw", labels="3", **own[1])))
    spoil(next(path for path in own[0].glob("train/*/*.png") if str(path) not in before))
    study_of(wish(arms="raw", labels="3", **own[1]))
    with pytest.raises(RunError, match="train: 1 of 36 samples cannot be used"):
        study_of(wish(arms="raw,frozen", labels="3", **own[1]))


def test_patients_are_a_part_of_what_a_trial_is_named_after(wish, striped, tmp_path):
    def listed(name, split, *whose):
        rows = [f"{path},{path.parent.name}" for path in sorted(striped.glob(f"{split}/*/*.png"))]
        rows = [",".join([row, *(f"{who}{i // 2}" for who in whose)]) for i, row in enumerate(rows)]
        (tmp_path / name).write_text("\n".join([",".join(["path", "label", *["patient" for _ in whose]]), *rows]))
        return str(tmp_path / name)

    first = wish(data=listed("plain.csv", "train"), arms="raw,frozen,scratch", labels="3")
    second = replace(first, data=listed("whose.csv", "train", "p"), test=listed("test.csv", "test", "q"))
    keys = [{trial.key for trial in study_of(one).trials(())} for one in (first, second)]
    assert len(keys[0] | keys[1]) == 6


def test_results_of_another_study_are_kept_beside_and_those_of_one_that_grew_are_not(wish):
    first = wish(arms="majority,mean_image", labels="1")
    result, page = first.out / "worth.json", first.out / "worth.html"
    made(study_of(first))
    write_worth(first.out)
    kept = result.read_bytes(), page.read_bytes()
    made(study_of(replace(first, labels="1,3")))
    assert not (first.out / "worth-1.json").exists() and page.read_bytes() == kept[1]
    result.write_bytes(kept[0])
    made(study_of(replace(first, arms="majority")))
    assert ((first.out / "worth-1.json").read_bytes(), (first.out / "worth-1.html").read_bytes()) == kept
    result.write_text("{")
    made(study_of(first))
    assert (first.out / "worth-2.json").read_text() == "{" and (first.out / "worth-1.json").read_bytes() == kept[0]


IN_THE_WAY = ["trials", "draws", "trials/KEY/outcome.json/", "timing.log/", "timing.json/", "readable.json/"]


@pytest.mark.parametrize("name", IN_THE_WAY)
def test_what_lies_in_the_place_of_results_is_named_in_one_line(wish, name):
    first = wish(arms="majority,scratch", labels="1")
    key = study_of(replace(first, out=first.out.with_name("elsewhere"))).trials(())[0].key
    path = first.out / name.rstrip("/").replace("KEY", key)
    path.parent.mkdir(parents=True)
    path.mkdir() if name.endswith("/") else path.write_text("")
    with pytest.raises(UserError, match=re.escape(str(path))) as error:
        made(study_of(first))
    assert "\n" not in str(error.value)


def test_a_finished_study_whose_rates_are_not_the_recipes_has_nothing_left(study):
    one = study(arms="scratch", labels="1,all", rates="choose", seeds=2)
    made(one)
    results = [trial.folder(one.wish.out) / "outcome.json" for _, trial in planned(one).tryings[0].options]
    for path, value in zip(results, (0.1, 0.9, 0.2), strict=True):
        path.write_text(json.dumps(to_json(replace(from_json(json.loads(path.read_text())), value=value))))
    plan, said = planned(one), []
    assert len(plan.left) == 4 and plan.trials == 7
    worth(one, plan, said.append)
    assert [line for line in said if "left, about" in line][-1].endswith("; under a second left, about")
    assert not planned(one).left


@pytest.mark.parametrize("broken", ['"value": 0.5', '"value": 7.5', '"minutes": null', '"judged": {}'])
def test_an_outcome_whose_values_were_changed_is_not_believed(study, broken):
    one = study(arms="majority", labels="1")
    made(one)
    path = one.trials(())[0].folder(one.wish.out) / "outcome.json"
    key = broken.partition(":")[0].strip('"')
    values = {**json.loads(path.read_text()), **json.loads("{" + broken + "}")}
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"is no outcome of a trial.*its values were changed"):
        planned(one)
    assert key in values


def test_studies_of_cheap_arms_train_nothing_to_plan(study):
    one = study(arms="majority,raw", labels="1")
    assert len(planned(one).left) == 2 and not (one.wish.out / "timing.log").exists()


def test_a_failure_while_timing_says_so_and_what_it_left_is_there(study):
    one = study(arms="finetuned", labels="1", pretrained_sets=("train.lr=1e30", "train.clip=null"))
    with pytest.raises(RunError, match="while timing 'finetuned' for the plan: ") as error:
        planned(one)
    (left,) = one.wish.out.glob("timing.tmp-*")
    assert left.name in str(error.value) and list(left.glob("run/failure-*"))


def test_a_thaw_shrinks_with_the_steps_and_one_that_leaves_none_is_refused(study):
    sets = ("train.steps=4000", "train.warmup_steps=0")
    steps = {thaw: [] for thaw in ("2000", "0.25", "[400,0.1]")}
    for thaw, each in steps.items():
        config = study(sets=(*sets, f"train.thaw={thaw}")).recipe.pretrained
        each += [stepped(config, count, 100, False).train.thaw for count in (1, 50, 100)]
    assert list(steps.values()) == [[150, 1000, 2000], [0.25] * 3, [[30, 0.1], [200, 0.1], [400, 0.1]]]
    one = study(arms="finetuned", sets=("train.steps=20", "train.thaw=5"))
    assert planned(one).left and "the encoder never learns" not in (one.wish.out / "timing.log").read_text()
    one = study(arms="finetuned", sets=("train.steps=20", "train.thaw=20"))
    with pytest.raises(UserError, match=r"train\.thaw=20 is no shorter than a training, of 20 steps"):
        one.trials(())


def test_a_second_command_in_the_same_place_is_refused_in_one_line_and_may_look_at_the_plan(wish):
    one = wish(labels="1", arms="raw")
    with locked(one.out, "making a study"):
        planning, making = (run(command(one, *more), capture_output=True, text=True) for more in (["--plan"], []))
    assert planning.returncode == 0 and "1 run to make" in planning.stdout
    assert making.returncode == 2 and making.stdout == ""
    (line,) = making.stderr.splitlines()
    assert line.endswith(f"--out {one.out}: another process is making a study there; wait, or choose another")
    assert not (one.out / "trials").exists()


def test_a_plan_that_fails_takes_no_folder_away_that_another_command_holds(wish, tmp_path):
    held = tmp_path / "held"
    with folder_for(held) as folder, locked(folder, "making a study"):
        with suppress(KeyError), folder_for(held):
            raise KeyError
        assert (held / ".lock").is_file()


@pytest.mark.parametrize("place", ["train", "train/below", "test", "link/below"])
def test_results_do_not_go_into_the_data(own, place):
    folder, data = own
    (folder / "link").symlink_to(folder / "train")
    with pytest.raises(UserError, match=rf"--out .*{place}: is in --\w+ .*; a study goes beside its data"):
        place_of("run", data["data"], data["test"], "classify", str(folder / place))
    with pytest.raises(UserError, match=r"is in --data .*link; a study goes beside its data"):
        place_of("run", str(folder / "link"), data["test"], "classify", str(folder / "train"))


@pytest.mark.parametrize("data", ["", "a/" + "x" * 300, "x.npz::train", "a\0b", "s3://bucket/train"])
def test_a_source_that_is_no_folder_keeps_no_place_from_being_taken(tmp_path, data):
    assert place_of("run", data, data, None, str(tmp_path / "out")) == tmp_path / "out"


def test_a_run_below_its_data_keeps_its_studies(wish, tmp_path):
    one = wish()
    assert place_of(one.run, str(tmp_path), "test", "classify", None).is_relative_to(one.run)


def test_the_time_of_rates_that_diverged_counts_too(study, monkeypatch):
    one = study(labels="3", arms="scratch", rates="choose", sets=("train.clip=null",))
    monkeypatch.setattr("mae_ext.worth.run.grid", lambda side, lr: [{}, {"train.lr": 1e30}])
    result, _ = made(one)
    each = [json.loads(path.read_text())["minutes"] for path in one.wish.out.glob("trials/*/outcome.json")]
    assert [row["why"] for row in result["rates"] if not row["taken"]] == ["not finite"]
    assert result["minutes"] > sum(each) > 0


def test_a_recipe_of_pretraining_is_said_to_be_no_task_whatever_else_of_it_does_not_fit(wish):
    with pytest.raises(ConfigError, match=r"image_folder.yaml: no task to fine-tune for; expected task"):
        study_of(wish(config="image_folder"))


def test_the_time_of_a_study_is_that_of_its_trials_of_rates_too(study):
    one = study(labels="3", arms="scratch", rates="choose")
    result, runs = made(one)
    each = [json.loads(path.read_text())["minutes"] for path in one.wish.out.glob("trials/*/outcome.json")]
    assert len(each) == runs > len(result["rows"])
    assert result["minutes"] == pytest.approx(sum(each)) and made(one)[0]["minutes"] == pytest.approx(sum(each))


def test_rates_that_are_all_alike_are_not_called_the_best():
    tried = [({}, 0.5), ({"train.lr": 1.0}, 0.5), ({"train.lr": 2.0}, 0.5)]
    first, *_ = best("scratch", tried, 8, "3 a class")
    assert first.taken and first.why.startswith("all 3 alike with 3 a class")
    first, *_ = best("scratch", [*tried[:2], ({"train.lr": 2.0}, 0.4)], 8, "3 a class")
    assert first.why.startswith("the best of 3 with")
    first, *_ = best("scratch", [(rates, None) for rates, _ in tried], 8, "3 a class")
    assert first.why.startswith("none of 3 finite with")
