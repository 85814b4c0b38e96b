"""An encoder whose patches go through convolutions is a program as any other is, and no weights of somebody else's."""

import pytest
import torch
from export.tiny_runs import KINDS, saved, tiny

from mae_ext.errors import UserError
from mae_ext.export.program import SUFFIXES, open_program
from mae_ext.export.weights import export
from mae_ext.features.encoder import load_encoder

EMBED = {"name": "conv", "hidden": 2}


@pytest.mark.parametrize("to", SUFFIXES)
def test_a_program_answers_as_the_model_does_for_one_and_three_samples(to, tmp_path):
    for package in ("onnx", "onnxruntime", "onnxscript") if to == "onnx" else ():
        pytest.importorskip(package)
    kind = "volume"
    run = saved(tmp_path / "run", tiny(kind, embed=EMBED))
    path = tmp_path / f"encoder{SUFFIXES[to]}"
    assert export(run, to, path).proof.holds
    encoder, program = load_encoder(run, device="cpu"), open_program(to, path)
    for batch in (1, 3):
        x = torch.rand(batch, KINDS[kind]["channels"], *KINDS[kind]["size"], generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            mine = encoder.model.encode_all(x, encoder.name)
        (theirs,) = program(x, None)
        assert mine.std() > 0.01
        torch.testing.assert_close(theirs, mine, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("kind", "to"), [("image", "timm"), ("image", "hf-vit"), ("volume", "monai-vit")])
def test_other_programs_have_no_such_embedder_and_it_is_refused_by_name(kind, to, tmp_path):
    run = saved(tmp_path / "run", tiny(kind, embed=EMBED))
    with pytest.raises(UserError, match="the embedder 'conv' has no counterpart elsewhere; only 'patch' has one"):
        export(run, to, tmp_path / "theirs")
