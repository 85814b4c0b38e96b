from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mae_ext.config import Config, parse_config
from mae_ext.drawing.panels import Panel, _fitting, draw, moments, on_a_scale, save, save_rows, save_sheet, to_image
from mae_ext.drawing.planes import three_planes
from mae_ext.engine import commit
from mae_ext.errors import UserError
from mae_ext.features.encoder import load_encoder
from mae_ext.model.filling import visible_pixels
from mae_ext.model.mae import MAE
from mae_ext.model.mask import Mask
from mae_ext.report.page import write_report
from mae_ext.report.pictures import panels_of, reconstruct

MakeRun = Callable[..., Path]


def test_there_is_one_picture_for_each_input_and_a_sheet_of_all(
    make_run: MakeRun, striped: Path, tmp_path: Path
) -> None:
    single = striped / "train" / "across" / "000.png"
    written = reconstruct(make_run(), [str(striped / "test"), single], tmp_path / "pictures")
    assert len(written) == 14 and written[-1].name == "overview.png"
    assert [path.name for path in (written[0], written[5], written[12])] == [
        "0000_100.png",
        "0005_101.png",
        "0012_000.png",
    ]
    assert sorted((tmp_path / "pictures").iterdir()) == sorted(written)
    for file in written:
        with Image.open(file) as picture:
            assert picture.format == "PNG" and picture.convert("RGB").getextrema() != ((255, 255),) * 3


def test_visible_patches_stay_hidden_ones_are_predicted(make_run: MakeRun, striped: Path) -> None:
    encoder = load_encoder(make_run())
    for panel in panels_of(encoder, [str(striped / "test" / "down")]):
        (_, given), (_, masked), (_, filled) = panel.columns
        hidden = (masked == 0.5).all(0)
        assert int(hidden.sum()) == 24 * 16 * 3 // 4
        torch.testing.assert_close(masked[:, ~hidden], given[:, ~hidden])
        torch.testing.assert_close(filled[:, ~hidden], given[:, ~hidden], atol=1e-5, rtol=0)
        assert (filled - given)[:, hidden].abs().max() > 0.01


def test_a_picture_does_not_know_what_is_under_the_mask(make_run: MakeRun, striped: Path, tmp_path: Path) -> None:
    """Changing hidden pixels changes nothing, unless the target's own statistics are asked for."""
    encoder, file = load_encoder(make_run()), tmp_path / "a.png"
    pixels = np.asarray(Image.open(striped / "test" / "down" / "100.png").resize((16, 24))).copy()
    Image.fromarray(pixels).save(file)
    (first,) = panels_of(encoder, [file])
    hidden = (first.columns[1][1] == 0.5).all(0).numpy()
    pixels[hidden] = pixels[hidden] // 3 + 100
    Image.fromarray(pixels).save(file)
    (second,), (leaking,) = panels_of(encoder, [file]), panels_of(encoder, [file], own_statistics=True)
    torch.testing.assert_close(first.columns[2][1], second.columns[2][1], atol=1e-4, rtol=0)
    assert (leaking.columns[2][1] - first.columns[2][1])[:, hidden].abs().max() > 0.02


@pytest.mark.parametrize(
    ("normalize", "own", "said"),
    [
        ("mae", False, "interpolated from visible patches"),
        ("mae", True, "the target's own (leaks)"),
        ("none", False, "predicted (the target is plain pixels)"),
    ],
)
def test_the_caption_says_whose_statistics_a_picture_uses(
    make_run: MakeRun, striped: Path, normalize: str, own: bool, said: str
) -> None:
    encoder = load_encoder(make_run(target={"name": "pixel", "normalize": normalize}))
    panel = next(iter(panels_of(encoder, [str(striped / "test" / "down")], own)))
    assert panel.caption[2] == f"patch statistics: {said}"
    assert panel.caption[1] == "mask ratio 0.75 · step 7"


def test_masks_depend_on_the_seed_and_the_position_alone(make_run: MakeRun, striped: Path) -> None:
    encoder = load_encoder(make_run())
    sources = [str(striped / "train")]  # 36 inputs: several batches

    def masks(seed: int, limit: int) -> list[torch.Tensor]:
        return [p.columns[1][1] == 0.5 for p in panels_of(encoder, sources, seed=seed, limit=limit)]

    nine, twelve, other = masks(0, 9), masks(0, 12), masks(1, 9)
    assert all(torch.equal(a, b) for a, b in zip(nine, twelve, strict=False))
    assert not all(torch.equal(a, b) for a, b in zip(nine, other, strict=True))
    # Of 220 that there are; also where a batch of eight has ended.
    assert len({tuple(m.flatten().tolist()) for m in twelve}) > 9
    assert not any(torch.equal(a, b) for a, b in zip(twelve, twelve[8:], strict=False))


@pytest.mark.parametrize(("grid", "patch"), [((3, 5), (4, 2)), ((2, 3, 5), (2, 4, 1)), ((7,), (3,))])
def test_visible_pixels_are_those_of_the_kept_patches_for_any_number_of_axes(
    grid: tuple[int, ...], patch: tuple[int, ...]
) -> None:
    tokens = int(np.prod(grid))
    keep = torch.tensor([[0, 3, tokens - 1]])
    shown = visible_pixels(Mask(keep, keep[:, :0], grid), patch)[0, 0].numpy()
    for token in range(tokens):
        corner = np.unravel_index(token, grid)
        box = tuple(slice(int(c) * p, (int(c) + 1) * p) for c, p in zip(corner, patch, strict=True))
        assert (shown[box] == (token in (0, 3, tokens - 1))).all()


def test_decoder_masking_leaves_no_hole_in_a_picture(make_run: MakeRun, striped: Path) -> None:
    encoder = load_encoder(make_run(decode={"name": "random", "ratio": 0.5}))
    panel = next(iter(panels_of(encoder, [str(striped / "test" / "down")])))
    (_, given), (_, masked), (_, filled) = panel.columns
    untouched = (filled - given).abs().amax(0) < 1e-6
    assert not (untouched & (masked == 0.5).all(0)).reshape(3, 8, 4, 4).all(dim=(1, 3)).any()


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_number_of_channels_can_be_drawn(channels: int) -> None:
    x = torch.rand(channels, 6, 9)
    picture = np.asarray(to_image(x)).astype(int)
    assert picture.shape == (6, 9, 3)
    expected = x if channels == 3 else x[:1].expand(3, -1, -1)
    assert np.abs(picture - 255 * expected.permute(1, 2, 0).numpy()).max() <= 0.51
    caption_height = draw(Panel((("input", x),), ("a.png",))).height
    assert caption_height == draw(Panel((("input", x[:1]),), ("a.png", "x")[: 1 + (channels not in (1, 3))])).height


def test_values_outside_the_range_and_nan_are_clipped_for_display() -> None:
    x = torch.tensor([[[-1.0, 2.0, float("nan"), 0.5]]])
    assert np.asarray(to_image(x))[0, :, 0].tolist() == [0, 255, 0, 128]


def test_small_images_are_enlarged_by_whole_pixels() -> None:
    x = torch.rand(3, 8, 8)
    picture = np.asarray(draw(Panel((("input", x),), ("a",)), with_caption=False, heading=False))
    shown = picture[5 : 5 + 160, 10 : 10 + 160]
    assert (shown.reshape(8, 20, 8, 20, 3) == shown.reshape(8, 20, 8, 20, 3)[:, :1, :, :1]).all()


def test_a_number_of_axes_that_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="3 spatial axes"):
        save(Panel((("input", torch.rand(1, 2, 3, 4)),), ("a",)), tmp_path / "a")


def test_bad_inputs_are_left_out_with_a_warning(
    make_run: MakeRun, striped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_text("no picture")
    good = striped / "test" / "down" / "100.png"
    assert len(reconstruct(make_run(), [bad, good], tmp_path / "out")) == 2
    assert "bad.png" in capsys.readouterr().err
    with pytest.raises(
        UserError,
        match=r"none of the 1 inputs can be read: 1 not an image \(such as .*bad\.png: begins with b'no picture'",
    ):
        reconstruct(load_encoder(make_run("b")).path, [bad], tmp_path / "out")


def test_names_of_inputs_cannot_leave_the_output_folder_or_break_the_drawing(
    make_run: MakeRun, striped: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    content = (striped / "test" / "down" / "100.png").read_bytes()
    for name in ("a..%2f..png", "a\nb.png", "漢字 🙂.png", "x" * 200 + ".png"):
        (folder / name).write_bytes(content)
    written = reconstruct(make_run(), [folder], tmp_path / "out")
    assert len(written) == 5
    assert all(file.parent == tmp_path / "out" and file.is_file() for file in written)


def test_columns_of_different_voxels_are_each_drawn_in_their_own(tmp_path: Path) -> None:
    """A neighbour with slices of 5 mm beside a query of 1 mm is neither squashed nor stretched."""
    columns = (("query", torch.rand(1, 8, 8, 8)), ("near", torch.rand(1, 8, 8, 8)))
    (moment,) = moments(Panel(columns, (), "volume", ((1.0, 1.0, 1.0), (5.0, 1.0, 1.0))))
    (_, query), (_, near) = moment.columns
    assert query.shape == near.shape
    assert torch.equal(query[:, :28, :8], three_planes(columns[0][1], (1.0, 1.0, 1.0)))
    assert torch.equal(near, three_planes(columns[1][1], (5.0, 1.0, 1.0)))


def test_pictures_are_not_written_among_their_inputs(make_run: MakeRun, striped: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder of inputs"):
        reconstruct(make_run(), [striped / "test"], striped / "test")


def test_inputs_stay_as_they_are_and_a_link_in_the_way_is_not_written_through(
    make_run: MakeRun, striped: Path, tmp_path: Path
) -> None:
    source = tmp_path / "photo.png"
    source.write_bytes((striped / "test" / "down" / "100.png").read_bytes())
    out = tmp_path / "out"
    out.mkdir()
    (out / "overview.png").symlink_to(source)
    before = source.read_bytes()
    reconstruct(make_run(), [source], out)
    assert source.read_bytes() == before and not (out / "overview.png").is_symlink()


def test_an_output_that_cannot_be_a_folder_is_the_users_error(make_run: MakeRun, striped: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        reconstruct(make_run(), [striped / "test" / "down"], tmp_path / "file")
    with pytest.raises(UserError, match="limit=0"):
        reconstruct(make_run("b"), [striped / "test" / "down"], tmp_path / "out", limit=0)


def flat(*levels: float, size: tuple[int, int] = (160, 200)) -> tuple[tuple[str, torch.Tensor], ...]:
    """Columns of one grey level each."""
    return tuple((f"c{i}", torch.full((1, *size), level)) for i, level in enumerate(levels))


def test_columns_stand_side_by_side_in_their_order_under_their_titles() -> None:
    picture = np.asarray(draw(Panel(flat(0.0, 0.4, 0.8), ("a.png",))))
    assert picture.shape == (10 + 22 + 160 + 17 + 4 + 5, 3 * 200 + 2 * 8 + 2 * 10, 3)
    for i, level in enumerate((0, 102, 204)):
        left = 10 + i * 208
        assert (picture[27 : 27 + 160, left : left + 200] == level).all()
        assert (picture[27 : 27 + 160, left + 200 : left + 208] == 255).all()
    assert (picture[:27] < 128).any() and (picture[190:] < 128).any()  # titles and a caption
    bare = np.asarray(draw(Panel(flat(0.0), ("a.png",)), with_caption=False, heading=False))
    assert bare.shape[:2] == (10 + 160 + 5, 220)


def test_a_bar_lies_along_the_foot_of_its_column() -> None:
    panel = Panel(flat(0.5, 0.5), (), bars=(None, (200, 10, 20)))
    picture = np.asarray(draw(panel, with_caption=False, heading=False))
    red = (picture == (200, 10, 20)).all(-1)
    rows, columns = red.nonzero()
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5 + 160 - 6, 5 + 160 - 1, 218, 417)
    assert red.sum() == 6 * 200


def test_a_sheet_has_its_panels_down_and_then_across(tmp_path: Path) -> None:
    levels = (0.1, 0.2, 0.3, 0.4, 0.6)
    panels = [Panel(flat(level, size=(160, 160)), (f"{level}", "ratio", "how")) for level in levels]
    picture = np.asarray(Image.open(save_sheet(panels, tmp_path / "overview")).convert("L")).astype(int)
    wide, high, head = 180, 175, 22
    assert picture.shape == (head + 3 * high + 28, 2 * wide)
    for i, level in enumerate(levels):
        top, left = head + i % 3 * high + 5, i // 3 * wide + 10
        assert (picture[top : top + 160, left : left + 160] == round(255 * level)).all(), i
    assert (picture[head + 2 * high :, wide:][:high] == 255).all()  # the sixth place is empty
    three = np.asarray(Image.open(save_sheet(panels[:3], tmp_path / "three")))
    assert three.shape[1] == wide


def test_rows_stand_one_under_the_other_with_one_caption(tmp_path: Path) -> None:
    panels = [Panel(flat(level), ()) for level in (0.2, 0.7)]
    picture = np.asarray(Image.open(save_rows(panels, tmp_path / "rows", "caption")).convert("L")).astype(int)
    row = 10 + 22 + 160 + 5
    assert picture.shape == (2 * row + 28, 220)
    for i, level in enumerate((0.2, 0.7)):
        assert (picture[i * row + 27 : i * row + 187, 10:210] == round(255 * level)).all()
    assert (picture[2 * row :] < 200).any()


def test_frames_of_a_gif_are_those_of_the_clip_in_their_order_at_their_pace(tmp_path: Path) -> None:
    levels = torch.tensor([0.0, 1.0, 0.25, 0.5])
    clip = levels.view(1, 4, 1, 1).expand(1, 4, 160, 200)
    path = save(Panel((("clip", clip),), ("a.mp4",), "clip"), tmp_path / "a")
    with Image.open(path) as picture:
        assert path.suffix == ".gif" and picture.n_frames == 4 and picture.info["duration"] == 120
        for i, level in enumerate(levels.tolist()):
            picture.seek(i)
            assert np.asarray(picture.convert("L"))[100, 100] == pytest.approx(255 * level, abs=8)


def test_what_is_not_in_0_to_1_is_scaled_by_the_inputs_own_percentiles() -> None:
    given = torch.stack([torch.linspace(0, 1, 1000), torch.linspace(-1000, 3000, 1000)]).view(2, 1, 10, 100)
    found = on_a_scale(given, given)
    assert torch.equal(found[0], given[0])
    low, high = -1000 + 0.005 * 4000, -1000 + 0.995 * 4000
    torch.testing.assert_close(found[1], (given[1] - low) / (high - low))
    torch.testing.assert_close(on_a_scale(2 * given, given)[1], (2 * given[1] - low) / (high - low))
    assert torch.equal(on_a_scale(2 * given, given)[0], 2 * given[0])


def test_a_long_name_keeps_its_end() -> None:
    text = _fitting("folder/" * 60 + "last.png", 12, 200)
    assert text.startswith("…") and text.endswith("folder/last.png") and len(text) < 45
    assert _fitting("short.png", 12, 200) == "short.png" and _fitting("a\nb\x07.png", 12, 200) == "a?b?.png"


def test_pictures_of_another_modality_lie_beside_the_first_ones(
    make_config: Callable[..., Config], striped: Path, tmp_path: Path
) -> None:
    values = make_config().model_dump(mode="json")
    values["modalities"] = {"one": values["modalities"]["image"], "two": values["modalities"]["image"]}
    config, run, out = parse_config(values), tmp_path / "run", tmp_path / "run" / "pictures"
    commit.save(run / "checkpoints", 1, config, {"model": MAE.from_config(config).state_dict()}, {})
    (run / "config.yaml").write_text(config.to_yaml())
    source = striped / "test" / "down" / "100.png"
    with pytest.raises(UserError, match="say which one: --modality one or --modality two"):
        reconstruct(run, [source], out)
    first = reconstruct(run, [source], out, name="one")
    kept = [path.read_bytes() for path in first]
    second = reconstruct(run, [source], out, name="two")
    assert [path.name for path in first + second] == [
        "one_0000_100.png", "overview_one.png", "two_0000_100.png", "overview_two.png",
    ]  # fmt: skip
    assert [path.read_bytes() for path in first] == kept
    html = write_report(run).read_text()
    assert html.count('class="pictures sheet"') == 1 and html.count("data:image/png") == 4
    assert (
        html.index('alt="overview_two"') < html.index("One by one, with file names") < html.index('alt="one_0000_100"')
    )
