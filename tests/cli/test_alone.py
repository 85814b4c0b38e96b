"""What one process does is not begun by several, and options that make no sense alone say so."""

import pytest
from typer.testing import CliRunner

from mae_ext.cli.app import app


def refused(*arguments):
    """Why a command is refused."""
    return str(CliRunner().invoke(app, [*arguments, "--out", "nowhere"]).exception)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["embed", "run", "scans", "--dense"], "embed --dense"),
        (["reconstruct", "run", "scans", "--as", "nifti"], "reconstruct --as nifti"),
        (["anomaly", "run", "scans"], "anomaly"),
    ],
)
def test_a_command_of_one_process_refuses_torchrun_by_name_before_it_writes(tmp_path, monkeypatch, arguments, named):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert refused(*arguments) == f"{named} is done by one process; start it without torchrun"
    assert not list(tmp_path.iterdir())


def test_an_overlap_of_plain_pictures_says_that_it_is_of_data():
    assert "add --as nifti, mp4 or png" in refused("reconstruct", "run", "scans", "--overlap", "0.5")
