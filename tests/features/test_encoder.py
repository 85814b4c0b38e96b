from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mae_ext.config import Config
from mae_ext.engine import commit
from mae_ext.errors import CheckpointError, RunError, UserError
from mae_ext.features.encoder import load_encoder
from mae_ext.features.windowed import Windows
from mae_ext.model.mae import MAE

MakeRun = Callable[..., Path]


def test_features_are_the_same_twice_and_with_any_number_of_threads(make_run: MakeRun, striped: Path) -> None:
    run, source = make_run(), str(striped / "test")
    first = load_encoder(run).features(source, threads=1)
    again = load_encoder(run).features(source, threads=5)
    assert first.features.dtype == np.float32 and first.features.shape == (12, 24)
    assert first.sources == again.sources
    np.testing.assert_array_equal(first.features, again.features)


def test_each_row_is_the_feature_of_the_file_it_names(make_run: MakeRun, striped: Path) -> None:
    encoder = load_encoder(make_run())
    table = encoder.features(str(striped / "test"), batch_size=5)
    for row in (0, 4, 11):
        alone = encoder.features(table.sources[row])
        np.testing.assert_allclose(alone.features[0], table.features[row], atol=1e-5)
        assert table.labels is not None
        assert table.classes[table.labels[row]] == Path(table.sources[row]).parent.name


def test_the_pooled_feature_is_the_mean_of_the_encoded_tokens(make_run: MakeRun, striped: Path) -> None:
    encoder = load_encoder(make_run())
    items = encoder.items(str(striped / "test" / "down"))
    samples = list(encoder.decode(items))
    tokens = encoder.encode(torch.stack([s.x for s in samples]))
    assert tokens.shape == (4, 12, 24)
    pooled = encoder.features(str(striped / "test" / "down")).features
    np.testing.assert_allclose(pooled, tokens.mean(1).numpy(), atol=1e-5)


def test_all_tokens_of_a_source_are_had_where_they_fit_into_memory(
    make_run: MakeRun, striped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, source = load_encoder(make_run()), str(striped / "test" / "down")
    tokens = encoder.features(source, "tokens").features
    assert tokens.shape == (4, 12, 24)
    assert tokens.dtype == np.float16
    np.testing.assert_allclose(tokens.astype(np.float32).mean(1), encoder.features(source).features, atol=2e-3)
    monkeypatch.setattr("mae_ext.features.encoder.TOKEN_BYTES", 2 * 4 * 12 * 24 - 1)
    with pytest.raises(UserError, match=r"its 4 samples .* list file that names fewer"):
        encoder.features(source, "tokens")


def test_a_view_is_what_the_encoder_is_shown(make_run: MakeRun, striped: Path) -> None:
    encoder, source = load_encoder(make_run()), str(striped / "test" / "down")
    plain, mirrored = encoder.features(source).features, encoder.features(source, view=lambda x: x.flip(-1)).features
    assert np.abs(plain - mirrored).max() > 1e-3
    np.testing.assert_allclose(encoder.features(source, view=lambda x: x).features, plain, atol=1e-6)


def test_the_statistics_in_the_checkpoint_decide_the_features(make_run: MakeRun, striped: Path) -> None:
    one = load_encoder(make_run("one"))
    other = load_encoder(make_run("other", data={"statistics": {"mean": [0.1] * 3, "std": [0.5] * 3}}))
    source = str(striped / "test" / "down")
    assert np.abs(one.features(source).features - other.features(source).features).max() > 1e-3


def test_the_class_token_is_another_feature_than_the_mean(make_run: MakeRun, striped: Path) -> None:
    encoder = load_encoder(make_run())
    source = str(striped / "test" / "down")
    mean, token = encoder.features(source).features, encoder.features(source, pool="class").features
    assert token.shape == mean.shape
    assert np.abs(token - mean).max() > 1e-3


def test_moments_are_of_each_of_the_last_blocks_also_through_windows(make_run: MakeRun, striped: Path) -> None:
    encoder, source = load_encoder(make_run()), str(striped / "test" / "down")
    rows = encoder.features(source, pool="moments").features
    depth = min(4, encoder.model.encoder.trunk.depth)
    assert rows.shape[1] == 2 * depth * encoder.width and rows.dtype == np.float32
    means = rows.reshape(len(rows), depth, 2, encoder.width)[:, :, 0]
    assert np.abs(means - means.mean(0)).max() > 1e-3
    seen = encoder.features(source, Windows(tokens="moments")).features
    assert seen.shape == rows.shape and str(Windows(tokens="moments")).endswith("of moments")


def test_an_unknown_pool_is_refused_by_name(make_run: MakeRun, striped: Path) -> None:
    with pytest.raises(UserError, match="'max'"):
        load_encoder(make_run()).features(str(striped / "test"), pool="max")  # type: ignore[arg-type]


def test_eight_and_sixteen_bit_files_meet_in_one_batch_without_a_change_of_scale(
    make_run: MakeRun, tmp_path: Path
) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (24, 16)).astype(np.uint8)
    folder = tmp_path / "grey"
    folder.mkdir()
    Image.fromarray(grey).save(folder / "a8.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "b16.png")
    eight, sixteen = load_encoder(make_run()).features(str(folder)).features
    np.testing.assert_allclose(eight, sixteen, atol=1e-4)


@pytest.fixture
def partly_broken(striped: Path, tmp_path: Path) -> Path:
    """Twelve good pictures, and between them one truncated and one that is text."""
    folder = tmp_path / "partly"
    folder.mkdir()
    for number, file in enumerate(sorted((striped / "test").rglob("*.png"))):
        (folder / f"{number:02d}.png").write_bytes(file.read_bytes())
    (folder / "03b.png").write_bytes((folder / "03.png").read_bytes()[:200])
    (folder / "07b.png").write_text("not a picture")
    return folder


def test_bad_files_are_left_out_listed_and_the_rest_stays_in_line(
    make_run: MakeRun, striped: Path, partly_broken: Path
) -> None:
    encoder = load_encoder(make_run())
    features = encoder.features(str(partly_broken), max_bad_fraction=0.2)
    assert [Path(b["path"]).name for b in features.bad] == ["03b.png", "07b.png"]
    assert all(b["kind"] for b in features.bad)
    good = encoder.features(str(striped / "test"))
    np.testing.assert_allclose(features.features, good.features, atol=1e-5)
    assert [Path(s).name for s in features.sources] == [f"{i:02d}.png" for i in range(12)]


def test_no_bad_file_at_all_can_be_asked_for_where_the_run_allows_some(
    make_run: MakeRun, partly_broken: Path, striped: Path
) -> None:
    data = {"path": "photos", "statistics": "imagenet", "max_bad_fraction": 0.5}
    encoder = load_encoder(make_run("lenient", data=data))
    assert len(encoder.features(str(partly_broken)).bad) == 2
    with pytest.raises(RunError, match="more than max_bad_fraction=0: "):
        encoder.features(str(partly_broken), max_bad_fraction=0.0)
    assert not encoder.features(str(striped / "test"), max_bad_fraction=0.0).bad


def test_more_bad_files_than_the_run_allows_stop_with_their_names(make_run: MakeRun, partly_broken: Path) -> None:
    with pytest.raises(RunError, match=r"03b\.png.*max_bad_fraction|max_bad_fraction.*03b\.png"):
        load_encoder(make_run()).features(str(partly_broken))


def test_a_missing_source_a_missing_run_and_an_unknown_modality_are_the_users_errors(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run()
    with pytest.raises(UserError, match="nowhere"):
        load_encoder(run).features(str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match="nothing"):
        load_encoder(tmp_path / "nothing")
    with pytest.raises(UserError, match="did you mean 'image'"):
        load_encoder(run, name="imag")


def test_random_weights_differ_from_the_saved_ones_and_are_the_same_for_a_seed(
    make_run: MakeRun, striped: Path
) -> None:
    encoder, source = load_encoder(make_run()), str(striped / "test" / "down")
    saved, one, same, two = (
        e.features(source).features
        for e in (encoder, encoder.randomised(1), encoder.randomised(1), encoder.randomised(2))
    )
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - saved).max() > 1e-3
    assert np.abs(one - two).max() > 1e-3
    assert encoder.randomised(1).step == 0


def test_random_weights_keep_the_statistics_of_the_run(make_run: MakeRun) -> None:
    encoder = load_encoder(make_run())
    torch.testing.assert_close(encoder.randomised(1).model.modality().mean, torch.tensor([0.5, 0.4, 0.6]))


def test_one_checkpoint_can_be_named_instead_of_its_run(
    make_run: MakeRun, make_config: Callable[..., Config], striped: Path
) -> None:
    run, config = make_run(), make_config()
    later = {"model": MAE.from_config(config.model_copy(update={"seed": 5})).state_dict()}
    commit.save(run / "checkpoints", 9, config, later, {})
    newest, named = load_encoder(run), load_encoder(run / "checkpoints" / "step-00000007")
    assert (newest.step, named.step) == (9, 7)
    source = str(striped / "test" / "down")
    assert np.abs(newest.features(source).features - named.features(source).features).max() > 1e-3


def test_what_is_known_of_samples_stays_with_them_where_others_are_bad(
    make_run: Callable[..., Path], striped: Path, tmp_path: Path
) -> None:
    files = sorted((striped / "test").rglob("*.png"))[:5]
    (tmp_path / "bad.png").write_bytes(b"")
    rows = [*files[:2], tmp_path / "bad.png", *files[2:]]
    who = [f"{file},{'abcab'[i % 5]},p{i}" for i, file in enumerate(rows)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,patient", *who]) + "\n")
    (tmp_path / "marks.csv").write_text(
        "\n".join(["path,label", *(f"{file},{'x|y' if i % 2 else 'y'}" for i, file in enumerate(rows))]) + "\n"
    )
    encoder = load_encoder(make_run())
    found = encoder.features(str(tmp_path / "list.csv"), batch_size=2, max_bad_fraction=0.5)
    assert found.sources == [str(file) for file in files]
    assert [found.classes[label] for label in found.labels] == ["a", "b", "a", "b", "a"]
    assert found.patients == ["p0", "p1", "p3", "p4", "p5"]
    assert [(row["path"], row["kind"]) for row in found.bad] == [(str(tmp_path / "bad.png"), "empty")]
    alone = np.concatenate([encoder.features(str(file)).features for file in files])
    np.testing.assert_allclose(found.features, alone, atol=1e-5)
    marks = encoder.features(str(tmp_path / "marks.csv"), max_bad_fraction=0.5).marks
    assert marks[:, 0].tolist() == [0, 1, 1, 0, 1] and marks[:, 1].all()
    with pytest.raises(RunError, match=r"1 of 6 samples cannot be used, .*: 1 empty \(such as .*bad\.png"):
        encoder.features(str(tmp_path / "list.csv"), max_bad_fraction=0.1)
