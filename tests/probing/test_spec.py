"""One spec says what a probe is asked: it refuses what cannot be, and everyone who fills it has its defaults."""

import dataclasses
import inspect

import pytest

from mae_ext.cli.runs import probe as command
from mae_ext.errors import UserError
from mae_ext.probing.spec import ProbeSpec
from mae_ext.train_config import ProbeConfig


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"k": 0}, "k=0: expected at least 1"),
        ({"epochs": -1}, "epochs=-1: expected at least 1"),
        ({"pool": "tokens"}, "give attentive=True"),
        ({"folds": 3}, r"either test \(--test\), .* or folds \(--folds\)"),
        ({"test": None}, r"either test \(--test\), .* or folds \(--folds\)"),
    ],
)
def test_what_no_probe_can_do_is_refused_before_anything_is_read(asked, message):
    with pytest.raises(UserError, match=message):
        ProbeSpec("train", **{"test": "test", **asked})


def test_a_spec_names_the_sources_that_are_read_each_once():
    assert ProbeSpec("a", "b").sources == ["a", "b"] and ProbeSpec("a", folds=2).sources == ["a"]


def test_a_spec_cannot_change_under_a_probe():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ProbeSpec("a", "b").k = 3


def test_the_command_line_and_the_config_leave_out_what_the_spec_has_by_default():
    usual = {field.name: field.default for field in dataclasses.fields(ProbeSpec)}
    options = inspect.signature(command).parameters
    for key in ("test", "folds", "k", "pool", "attentive", "mirror", "max_bad_fraction"):
        assert options[key].default == usual[key], key
    during = ProbeConfig(every=1, train="a", test="b")
    assert (during.k, during.pool) == (usual["k"], usual["pool"])
