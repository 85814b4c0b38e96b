"""When a run is probed."""

from mae_ext.train_config import ProbeConfig


def test_a_run_is_probed_at_its_start_every_so_many_steps_and_at_its_end():
    spec = ProbeConfig(every=4, train="a", test="b")
    assert [step for step in range(11) if spec.due(step, 10)] == [0, 4, 8, 10]
    assert [step for step in range(9) if spec.due(step, 8)] == [0, 4, 8]
