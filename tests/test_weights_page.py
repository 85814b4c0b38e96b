"""What docs/weights.md has to try without a download, run as it stands there, but for fewer steps."""

import re
import shlex
from pathlib import Path

import pytest

from mae_ext.cli import run

PAGE = Path(__file__).parent.parent / "docs" / "weights.md"


@pytest.fixture
def lines(tmp_path, monkeypatch):
    """The commands of the page, in a folder where its program has made weights and pictures."""
    pytest.importorskip("transformers", reason="makes the weights that the page begins with")
    monkeypatch.chdir(tmp_path)
    section = PAGE.read_text().partition("## Try it without")[2].partition("\n## ")[0]
    (code,) = re.findall(r"^```python\n(.*?)^```", section, re.M | re.S)
    exec(compile(code, PAGE.name, "exec"), {})
    (commands,) = re.findall(r"^```bash\n(.*?)^```", section, re.M | re.S)
    return [shlex.split(line) for line in commands.splitlines()]


def test_weights_come_in_are_gone_on_from_and_go_out(lines, capsys):
    assert [line[:2] for line in lines] == [
        ["mae-ext", verb] for verb in ("probe", "pretrain", "export", "export", "convert")
    ]
    for line in lines:
        if "onnx" in line:  # which takes long, and tests/export has
            continue
        words = ["1" if word == "20" else word for word in line[1:]]
        assert run([*words, *(["--set", "modalities.image.batch=8"] if line[1] == "pretrain" else [])]) == 0
    printed = capsys.readouterr()
    assert '"linear"' in printed.out and "tensors as they are" in printed.err
    assert Path("runs/on/start.json").is_file() and Path("exported/config.json").is_file()
    assert "largest difference 0.0e+00" in printed.out
