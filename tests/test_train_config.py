"""When a run is probed, and on what."""

import pytest

from mae_ext.config import parse_config
from mae_ext.errors import ConfigError
from mae_ext.train_config import ProbeConfig

SET = {"every": 4, "train": "a", "test": "b"}


def test_a_run_is_probed_at_its_start_every_so_many_steps_and_at_its_end():
    spec = ProbeConfig(every=4, train="a", test="b")
    assert [step for step in range(11) if spec.due(step, 10)] == [0, 4, 8, 10]
    assert [step for step in range(9) if spec.due(step, 8)] == [0, 4, 8]


@pytest.fixture
def with_probe(make_config):
    def parse(probe):
        values = make_config().model_dump(mode="json")
        return parse_config(values | {"train": values["train"] | {"probe": probe}})

    return parse


def test_one_set_is_as_it_was_and_several_have_names(with_probe):
    one, two = with_probe(SET), with_probe({"old": SET, "new-2": SET | {"every": 5, "k": 3}})
    assert one.train.probe == ProbeConfig(**SET) and one.train.probes == {"train.probe": ProbeConfig(**SET)}
    assert one.train.all_observers[0].arguments == ProbeConfig(**SET).model_dump()
    assert [(key, spec.every, spec.k) for key, spec in two.train.probes.items()] == [
        ("train.probe.old", 4, 20), ("train.probe.new-2", 5, 3),
    ]  # fmt: skip
    assert list(two.train.all_observers[0].arguments) == ["sets"]
    assert all(parse_config(c.model_dump(mode="json")) == c for c in (one, two))


@pytest.mark.parametrize(
    ("probe", "told"),
    [
        ({"old": SET, "new": SET | {"evry": 3}}, "train.probe.new.evry: unknown key, did you mean 'every'?"),
        (SET | {"evry": 3}, "train.probe.evry: unknown key, did you mean 'every'?"),
        (
            {"old": SET, "new": {"every": 0, "train": "a", "test": "b"}},
            "train.probe.new.every: Input should be greater",
        ),
        ({"old": SET, "new": {"every": 4, "train": "a"}}, "train.probe.new.test: Field required"),
        ({"old": SET, "new": None}, "train.probe.new: Input should be a valid dictionary"),
        ({"every": 4, "old": SET}, "train.probe: every beside the named old: write a set's keys into each set"),
        ({"a b": SET}, "train.probe: set 'a b': a name is letters"),
        ({"train": SET, "test": SET}, "train.probe: no set can be called as a key of one is: train, test"),
        ("photos", "train.probe: Input should be a valid dictionary"),
    ],
)
def test_the_key_at_fault_is_named_and_no_other(with_probe, probe, told):
    with pytest.raises(ConfigError) as refused:
        with_probe(probe)
    assert str(refused.value).startswith(f"config: {told}") and ";" not in str(refused.value)
