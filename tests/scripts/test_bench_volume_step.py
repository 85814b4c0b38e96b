"""scripts/benchmarks/bench_volume_step.py: both sides do the same work, and sides that fail are quoted."""

import argparse
import json
import sys

import bench_volume_step as bench
import pytest
import torch

from mae_ext.model.mae import MAE
from mae_ext.model.mask import num_keep

ARGS = argparse.Namespace(
    what="peer", size="tiny", edge=24, patch=6, decoder="36,2,3", batch=2, precision="fp32", device="cpu", rounds=1
)


@pytest.fixture(scope="module")
def peer():
    return bench.peer_model(ARGS)


def sizes(model):
    return sorted(tuple(p.shape) for p in model.parameters() if p.ndim == 2)


def test_the_peer_keeps_as_many_tokens_and_has_the_same_blocks(peer):
    ours = MAE.from_config(bench.our_config(ARGS))
    seen = {}
    for name, block in (("encoder", peer.blocks[0]), ("decoder", peer.decoder_blocks[0])):
        block.register_forward_hook(lambda _, given, __, name=name: seen.update({name: given[0].shape[1]}))
    bench.peer_loss(peer, bench.scans(ARGS), ARGS.patch)
    assert seen == {"encoder": 1 + num_keep(64, bench.RATIO), "decoder": 1 + 64}
    assert ours.encoder.class_token is not None and ours.modality().masker.num_keep((4, 4, 4)) + 1 == seen["encoder"]
    assert len(peer.blocks) - 1 == len(ours.encoder.trunk.blocks)  # theirs end in a norm
    assert len(peer.decoder_blocks) - 1 == len(ours.decoder.trunk.blocks)
    # Every matrix of a block, the projection between the two and the prediction. Their embedding is a convolution.
    embed = [tuple(p.shape) for p in ours.modality().embed.parameters() if p.ndim == 2]
    assert sizes(peer) == sorted([s for s in sizes(ours) if s not in embed])
    assert num_keep(216, bench.RATIO) == int(216 * (1 - bench.RATIO)) == 54


def test_the_loss_written_out_for_the_peer_is_that_of_hidden_patches_alone(peer):
    x = bench.scans(ARGS)
    torch.manual_seed(0)
    loss = bench.peer_loss(peer, x, ARGS.patch)
    torch.manual_seed(0)
    predicted, hidden = peer(x)
    error = (predicted - bench.patchify(x, (6, 6, 6)))[hidden.bool()].square().mean()
    assert hidden.sum() == 2 * 48 and loss.item() == pytest.approx(error.item())


def test_half_of_the_hidden_tokens_are_decoded_and_the_full_side_decodes_all():
    rows = [torch.Generator().manual_seed(i) for i in range(2)]
    whole, half = (MAE.from_config(bench.our_config(ARGS, half=h)).modality().draw_mask(rows) for h in (False, True))
    assert whole.keep.shape == half.keep.shape == (2, 16)
    assert (whole.pred.shape[1], half.pred.shape[1]) == (48, 24)


def test_sides_take_turns_and_one_that_fails_is_quoted_and_left_alone():
    program = "import sys\nfor i, _ in enumerate(sys.stdin): print({}, flush=True)"
    fine, failing = program.format("[i, 10 * i, 7]"), program.format('\'{"error": "no"}\'')
    found = bench.take_turns({"a": [sys.executable, "-c", fine], "b": [sys.executable, "-c", failing]}, 3)
    assert found == {"a": {"times": [2, 3, 4], "peak": 40, "before": 7}, "b": {"error": "no"}}


@pytest.mark.slow
def test_both_commands_print_what_they_promise_and_quote_a_side_that_fails(monkeypatch, capsys):
    tiny = ["--size", "tiny", "--edge", "16", "--patch", "8", "--decoder", "36,1,3", "--batch", "2", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", ["bench", "peer", *tiny, "--device", "cpu"])
    bench.main()
    fp32, bf16 = map(json.loads, capsys.readouterr().out.splitlines())
    assert fp32["speedup"] > 0 and set(fp32["seconds"]) == {"ours", "peer"}
    # MONAI scatters bf16 tokens into fp32 mask tokens.
    assert "dtype" in bf16["error"]["peer"] and set(bf16["seconds"]) == {"ours"}
