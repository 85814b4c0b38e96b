"""preprocessing as transformers' image processors read it: preprocessor_config.json in a folder of theirs."""

from collections.abc import Sequence
from typing import Any

from mae_ext.config import ModalityConfig

BICUBIC = 3
"""Pillow's number of it, as transformers writes it."""


def processor(
    modality: ModalityConfig, mean: Sequence[float], std: Sequence[float]
) -> tuple[dict[str, Any], str | None]:
    """preprocessor_config.json for samples of this modality, and a remark where theirs cannot do what ours does.

    Of a square: the short side is resized to it and its middle is cut out, as our evaluation has it but for rounding.
    `BitImageProcessor` does so in versions 4 and 5 (`ViTImageProcessor` of version 4 has no cut); clips have
    `VideoMAEImageProcessor`, which is given the frames.
    """
    height, width = modality.size[-2:]
    levels = modality.data.reader.name in ("image", "video")
    values: dict[str, Any] = {
        "image_processor_type": "VideoMAEImageProcessor" if len(modality.size) > 2 else "BitImageProcessor",
        "do_resize": True,
        "resample": BICUBIC,
        "do_rescale": levels,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
        "do_convert_rgb": modality.channels == len("RGB") and "bands" not in modality.data.reader.arguments,
    }
    if height == width:
        cut = {
            "size": {"shortest_edge": height},
            "do_center_crop": True,
            "crop_size": {"height": height, "width": width},
        }
        return {**values, **cut}, None
    squeezed = {"size": {"height": height, "width": width}, "do_center_crop": False}
    return {**values, **squeezed}, (
        f"transformers' image processor has no box of the aspect {height}:{width}: it squeezes whole images, where "
        f"mae-ext cuts out the middle; preprocessing.json says how"
    )
