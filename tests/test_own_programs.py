"""The programs of docs/own_programs.md, run as they stand there."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mae_ext.config import parse_config
from mae_ext.engine import commit
from mae_ext.model.mae import MAE

PAGE = Path(__file__).parent.parent / "docs" / "own_programs.md"


@pytest.fixture
def program(
    make_run: Callable[..., Path], striped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """program(heading) runs what stands below a heading, in a folder that has what the page says."""
    runs = tmp_path / "runs"
    runs.mkdir()
    (tmp_path / "labelled").symlink_to(striped)
    for name in ("images", "mine"):
        make_run(f"runs/{name}")
    scans = {
        "size": [32, 32, 32], "patch": [16, 16, 16], "channels": 1, "batch": 2,
        "data": {"reader": "volume", "statistics": {"mean": [0.5], "std": [0.3]}},
    }  # fmt: skip
    model = {"width": 24, "depth": 12, "heads": 2, "decoder": {"width": 16, "depth": 1, "heads": 2}}
    config = parse_config({"modalities": {"scan": scans}, "model": model, "train": {"steps": 1}})
    weights = {"model": MAE.from_config(config).state_dict()}
    commit.save(runs / "scans" / "checkpoints", 1, config, weights, {})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def run(heading: str, **given: Any) -> dict[str, Any]:
        section = next(part for part in re.split(r"^#+ ", PAGE.read_text(), flags=re.M) if part.startswith(heading))
        (code,) = re.findall(r"^```python\n(.*?)^```", section, flags=re.M | re.S)
        torch.manual_seed(0)
        exec(compile(code, f"{PAGE.name}: {heading}", "exec"), given)
        return given

    return run


def test_the_first_lines_of_the_page_give_tokens(program: Callable[..., dict[str, Any]]) -> None:
    names = program("The encoder", x=torch.rand(2, 3, 40, 32))
    assert names["tokens"].shape == (2, names["rows"] * names["columns"], 24) == (2, 40, 24)


def test_the_linear_head_learns_and_then_the_encoder_does(
    program: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    names = program("A linear head")
    right, of = re.findall(r"frozen: ([\d.]+) of (\d+) right", capsys.readouterr().out)[0]
    assert float(right) > 0.8 and of == "12"
    assert all(p.grad is not None for p in names["encoder"].parameters() if p.requires_grad)


def test_monais_unetr_trains_on_the_encoder(
    program: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    names = program("MONAI's UNETR")
    assert 0 < float(capsys.readouterr().out.removeprefix("loss ")) < 3
    net, encoder, scans = names["net"], names["encoder"], names["scans"]
    assert net(scans).shape == (2, 3, 32, 32, 48) and torch.equal(net.vit(scans)[0], encoder(scans))
    first = encoder.model.modality().embed.project.weight
    assert first.grad.abs().sum() > 0 and encoder.grid_of(scans) == (2, 2, 3)


def test_the_index_finds_a_picture_itself_first(
    program: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    names = program("An index of nearest neighbours")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 3 and lines[0] == ["1.0", names["shelf"].sources[0]]
    assert float(lines[1][0]) >= float(lines[2][0])
    # Of another size as well.
    assert len(names["nearest"](torch.rand(4, 3, 48, 32), k=5)) == 4
