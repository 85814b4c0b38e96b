"""What a run says last, and what it leaves."""

from mae_ext.engine import checkpoint


def complaint(capfd):
    """What the command said last, which has to be one line with nothing of Python in it."""
    said = capfd.readouterr().err
    assert "Traceback" not in said
    return said.splitlines()[-1]


def weights_of(path):
    return checkpoint.read_tensors(path / "model.safetensors")
