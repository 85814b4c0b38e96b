"""The ledger of bad files: each once, and the end of a run that has met more of them than it allows."""

import pytest
import torch
from faults.kills import rows

from mae_ext.config import load_config
from mae_ext.data.batch import Batch
from mae_ext.data.loading.batches import ModalityData
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.ledger import Ledger
from mae_ext.errors import RunError


@pytest.mark.parametrize(("allowed", "most"), [(0.1, 4), (0.25, 10), (0.12, 4), (0.0, 0)])
def test_as_many_bad_files_as_are_allowed_stop_no_run_and_one_more_does(tiny, photos, tmp_path, allowed, most):
    """Of 40 files; one that is met again is no other."""
    sets = [f"modalities.image.data.path={photos}", f"modalities.image.data.max_bad_fraction={allowed}"]
    config = load_config(tiny(), sets)
    data = {"image": ModalityData(0, "image", config.modalities["image"])}
    ledger = Ledger(tmp_path, 0, Ranks(0, 1, torch.device("cpu")))

    def meet(step, count):
        bad = [{"modality": "image", "path": f"{n}.png", "kind": "empty", "detail": ""} for n in range(count)]
        ledger.note(step, [{"image": Batch(torch.zeros(0), bad=bad + bad)}])
        ledger.share(config, data, step)

    for step in (1, 2):
        meet(step, most)
    with pytest.raises(RunError, match=rf"{most + 1} of 40 files are bad, and max_bad_fraction is {allowed:g}"):
        meet(3, most + 1)
    ledger.close()
    assert [(row["path"], row["step"]) for row in rows(tmp_path / "bad_samples.jsonl")] == [
        *((f"{n}.png", 1) for n in range(most)), (f"{most}.png", 3),
    ]  # fmt: skip


def test_what_is_met_in_a_step_is_shared_when_its_answer_is_read_and_not_before(tiny, photos, tmp_path):
    """Two steps are on their way when the first is heard of: a run stops at the same step however late it reads."""
    config = load_config(tiny(), [f"modalities.image.data.path={photos}", "modalities.image.data.max_bad_fraction=0.1"])
    data = {"image": ModalityData(0, "image", config.modalities["image"])}
    ledger = Ledger(tmp_path, 0, Ranks(0, 1, torch.device("cpu")))
    for step, names in ((1, "abc"), (2, "cdef")):
        bad = [{"modality": "image", "path": name, "kind": "empty", "detail": ""} for name in names]
        assert ledger.note(step, [{"image": Batch(torch.zeros(0), bad=bad)}])
    ledger.share(config, data, 1)
    with pytest.raises(RunError, match="6 of 40 files are bad"):
        ledger.share(config, data, 2)
    ledger.close()
    found = [(row["path"], row["step"]) for row in rows(tmp_path / "bad_samples.jsonl")]
    assert found == [("a", 1), ("b", 1), ("c", 1), ("d", 2), ("e", 2), ("f", 2)]
