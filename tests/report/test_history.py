"""What a run directory says, column by column, and what of it is left out."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mae_ext.errors import UserError
from mae_ext.report.history import columns, parameters, read_history


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_columns_are_in_the_order_of_steps_and_the_later_of_two_lines_counts():
    found = columns([
        {"step": 3, "loss": 1.0}, {"step": 1, "loss": 5.0, "lr": 0.1}, {"step": 3, "loss": 2.0, "lr": 0.3},
        {"loss": 9.0}, {"step": "x", "loss": 9.0}, {"step": 2, "loss": "nan", "lr": True},
    ])  # fmt: skip
    assert found["step"].tolist() == [1, 2, 3]
    np.testing.assert_array_equal(found["loss"], [5, np.nan, 2])
    np.testing.assert_array_equal(found["lr"], [0.1, np.nan, 0.3])


def test_a_run_is_read_whole_while_it_is_being_written(make_run):
    run = make_run()
    made = {"loader/read": 0.25, "loader/decode": 1.0}
    metrics = lines(
        {"step": 1, "loss": 3.0, "data_wait": 0.5, "seconds": 2.0, **made},
        {"step": 2, "loss": 2.0, "seconds": 1.0, **made},
    )
    (run / "metrics.jsonl").write_text(metrics + '{"step": 3, "loss": 1.0}')  # no newline: half of it may be missing
    (run / "evaluations.jsonl").write_text(lines({"step": 2, "accuracy": 0.25}))
    (run / "probes.jsonl").write_text(lines({"step": 2, "knn": {}}))
    (run / "bad_samples.jsonl").write_text(lines({"path": "a"}))
    (run / "bad_samples.1.jsonl").write_text(lines({"path": "b"}, {"path": "c"}))
    found = read_history(run)
    assert found.column("step").tolist() == [1, 2] and found.problems == []
    np.testing.assert_allclose(found.waited(), [0.25, np.nan])
    assert found.stages() == {"read": 0.5, "decode": 2.0}
    assert found.finite("data_wait").tolist() == [0.5] and found.column("none").size == 0
    assert found.evaluations["accuracy"].tolist() == [0.25] and found.probes == [{"step": 2, "knn": {}}]
    assert [row["path"] for row in found.bad] == ["b", "c", "a"]
    assert found.config is not None and found.config_text == (run / "config.yaml").read_text()


def test_checkpoints_are_counted_with_all_their_files(make_run):
    run = make_run()
    (run / "checkpoints" / "step-00000012").mkdir()
    (run / "checkpoints" / "step-00000012" / "manifest.json").write_text('{"step": 12}' + " " * 999_988)
    (run / "checkpoints" / "step-00000012" / "model.safetensors").write_bytes(bytes(2_000_000))
    seven, twelve = read_history(run).checkpoints
    assert (seven.name, seven.step) == ("step-00000007", 7)
    assert (twelve.name, twelve.step, twelve.megabytes) == ("step-00000012", 12, 3.0)
    assert seven.megabytes * 1e6 == sum(f.stat().st_size for f in (run / "checkpoints" / seven.name).iterdir())


def test_weights_are_counted_by_the_first_part_of_their_name(tmp_path):
    tensors = {"encoder.a.weight": torch.zeros(3, 4), "encoder.b": torch.zeros(5), "decoder.x": torch.zeros(2, 2, 2)}
    save_file(tensors | {"alone": torch.zeros(())}, tmp_path / "model.safetensors", {"note": "kept apart"})
    assert parameters(tmp_path) == {"encoder": 17, "decoder": 8, "alone": 1}
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 20)
    assert parameters(tmp_path) == {}


def test_what_cannot_be_read_is_said_and_the_rest_is_shown(make_run):
    run = make_run()
    (run / "metrics.jsonl").write_text(lines({"step": 1, "loss": 1.0}) + "[1]\n\n{\n" + lines({"step": 2, "loss": 0.5}))
    (run / "checkpoints" / "step-00000007" / "manifest.json").write_text("{")
    (run / "failure-00000002").mkdir()
    (run / "failure-00000002" / "record.json").write_text("{}")
    found = read_history(run)
    assert found.column("loss").tolist() == [1.0, 0.5] and found.checkpoints == []
    assert [p.partition(" ")[0] for p in found.problems] == ["metrics.jsonl:", "checkpoint", "The"]
    assert "2 lines are not JSON objects" in found.problems[0]
    with pytest.raises(UserError, match="no such run directory"):
        read_history(run / "none")
