"""What a reader has to open to follow one step of training, from the command to AdamW: counted, not estimated.

A child trains for four steps on eight small pictures, as `mae-ext pretrain` does, with one worker and with the model as
a GPU runs it (without the kernels of engine/cpu.py). Of its third step the test knows every function of mae_ext that
was entered between the wait for its batch and its AdamW, and the functions on the stack then. A file counts whole, with
its comments, docstrings and examples, when any function of it was among them; the command's own function is the first.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).parent.parent / "mae_ext"

ASIDE = {
    "cli/app.py": "how any command line becomes an exit code",
    "data/batch.py": "levels of what travels as it is stored",
    "data/loading/copies.py": "the parts of a batch, one after the other, on the device",
    "data/loading/loader.py": "takes the batch that a worker has made",
    "data/loading/ring.py": "takes back the memory of the batch before",
    "engine/distributed.py": "what ranks tell each other",
    "engine/gate.py": "whether an update goes through",
    "engine/ledger.py": "bad files",
    "engine/parallel.py": "when ranks exchange gradients, and their norms",
    "engine/precision.py": "autocast",
    "engine/record.py": "when the step began, what it waited for",
    "engine/stop.py": "signals",
    "model/units.py": "8-bit levels are 0..1",
    "sections.py": "size / patch",
}
"""What a step calls that neither makes the loss nor changes a weight, and why it is called."""

FOUR = ("engine/train.py", "engine/step.py", "model/mae.py", "model/transformer.py")

CHILD = """
import sys
import mae_ext
from pathlib import Path
from mae_ext.cli import run
from mae_ext.engine import cpu

cpu.KERNELS.clear()
root, steps, entered, path = Path(mae_ext.__file__).parent, 0, set(), None

def inside(frame):
    file = Path(frame.f_code.co_filename)
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else None

def watch(frame, event, _):
    global steps, path
    if event != "call":
        return
    if file := inside(frame):
        if frame.f_code.co_qualname == "Loader.__next__":
            entered.clear()
        entered.add(file)
    elif frame.f_code.co_qualname == "Adam.step":
        steps += 1
        if steps == 3:
            path = set(entered)
            while frame:
                path.add(inside(frame))
                frame = frame.f_back

sys.setprofile(watch)
code = run(["pretrain", "config.yaml", "--data", "photos", "--out", "run"])
sys.setprofile(None)
print("\\n".join(sorted(path - {None})))
sys.exit(code)
"""


@pytest.fixture(scope="module")
def entered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """The files that a step enters, and their lines."""
    folder = tmp_path_factory.mktemp("step")
    (folder / "photos").mkdir()
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{number}.png")
    model = {"width": 24, "depth": 2, "heads": 2, "decoder": {"width": 16, "depth": 1, "heads": 2}}
    train = {"steps": 4, "workers": 1, "device": "cpu", "warmup_steps": 1, "precision": "fp32", "tensorboard": False}
    image = {"size": [32, 32], "patch": [8, 8], "batch": 4}
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"modalities": {"image": image}, "model": model, "train": train})
    )
    done = subprocess.run([sys.executable, "-c", CHILD], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name: len((ROOT / name).read_text().splitlines()) for name in done.stdout.split()}


def test_the_loss_and_the_update_are_at_most_12_files_and_1870_lines(entered: dict[str, int]) -> None:
    path = {name: lines for name, lines in entered.items() if name not in ASIDE}
    assert set(FOUR) < set(path)
    assert len(path) <= 12 and sum(path.values()) <= 1870, json.dumps(path, indent=1)


def test_all_that_a_step_enters_is_known(entered: dict[str, int]) -> None:
    """Nothing new crept in, and what stands aside is still called."""
    assert set(ASIDE) < set(entered)
    assert len(entered) <= 26 and sum(entered.values()) <= 3411, json.dumps(entered, indent=1)


def test_the_four_files_that_matter_are_under_700_lines(entered: dict[str, int]) -> None:
    assert sum(entered[name] for name in FOUR) < 700
