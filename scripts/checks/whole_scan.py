"""Memory and time of a whole CT in windows: the peak of the process, and a window beside the middle crop.

Makes an uncompressed NIfTI of int16 (by default 512 x 512 x 1500 voxels of 0.7 x 0.7 x 1 mm, a body of water with
structure in air), opens it as the recipe says, encodes `--windows` of its windows into a dense map, and prints one JSON
object: peak_gb is that of the whole process (its dense map, of all the scan's tokens, included). cpu_seconds are the
processor's: of opening the scan and all these windows with their place in the map, and so many times the middle crop,
opened once and encoded (the median of 5), which is what they might cost.

    python scripts/checks/whole_scan.py                       # volume_ct_vitb's size: 8 windows, a map of 16 components
    python scripts/checks/whole_scan.py --size tiny --windows 64 --shape 256 256 300
"""

import argparse
import json
import resource
import tempfile
from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import nibabel as nib
import numpy as np
import torch

import mae_ext
from mae_ext.data.crops import evaluation_sampler
from mae_ext.data.loading.blend import Blend
from mae_ext.data.sample import Sample
from mae_ext.features.windowed import Windows


def make(path: Path, shape: tuple[int, int, int]) -> None:
    """A plane at a time: the file is never in memory."""
    header = nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.diag([0.7, 0.7, 1, 1])).header
    header.set_data_shape(shape)
    y, x = np.ogrid[-1 : 1 : shape[1] * 1j, -1 : 1 : shape[0] * 1j]
    body = (x / 0.8) ** 2 + (y / 0.6) ** 2 < 1
    chance = np.random.default_rng(0)
    planes = [np.where(body, chance.integers(-80, 200, body.shape), -1000).astype("<i2").tobytes() for _ in range(8)]
    header.set_slope_inter(1, 0)
    header["vox_offset"] = 352
    with path.open("wb") as file:
        file.write(header.binaryblock + bytes(4))
        for z in range(shape[2]):
            file.write(planes[z % len(planes)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 1500))
    parser.add_argument("--size", default="base", help="of the model: tiny, small, base, ...")
    parser.add_argument("--windows", type=int, default=8, help="that are encoded")
    parser.add_argument("--components", type=int, default=16, help="numbers a token in the map")
    parser.add_argument("--batch", type=int, default=4)
    args = parser.parse_args()
    config = mae_ext.load_config("volume_ct_vitb", [f"model.size={args.size}", "train.precision=fp32"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ct.nii"
        make(path, tuple(args.shape))
        encoder = mae_ext.FrozenEncoder(mae_ext.MAE(config, decodes=False).eval(), config, "volume", 0, Path("none"))
        seeing = encoder.seeing(Windows(batch=args.batch), encoder.tokens)
        shape = (encoder.modality.channels, *encoder.modality.size)
        encoder.tokens([Sample(torch.zeros(shape), "the first is dearer than all others")])
        began, cpu = perf_counter(), process_time()
        whole = seeing.tiling(str(path))
        boxes, window = whole.boxes, tuple(s // p for s, p in zip(whole.size, whole.patch, strict=True))
        count = min(args.windows, len(boxes))
        middle = (len(boxes) - count) // 2
        blend, places = Blend(whole, args.components), list(islice(whole.tokens(), middle, middle + count))
        seconds = []
        for group in seeing.groups(str(path), boxes[middle : middle + count]):
            seconds.append(perf_counter() - began)
            for at, tokens in zip(places[group.first :], group.rows, strict=False):
                blend.add(at, tokens.reshape(*window, -1)[..., : args.components].numpy())
        windows_cpu = process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        began, cpu = perf_counter(), process_time()
        (sample,) = encoder.reader().read(str(path), [evaluation_sampler(encoder.modality.data.augment, whole.size)])
        opened, opened_cpu = perf_counter() - began, process_time() - cpu
        crop_cpu = []
        for _ in range(5):
            began, cpu = perf_counter(), process_time()
            encoder.tokens([sample])
            one = perf_counter() - began
            crop_cpu.append(process_time() - cpu)
    each = (seconds[-1] - seconds[0]) / max(1, count - args.batch)
    print(json.dumps({
        "shape": args.shape, "model": args.size, "windows_of_the_scan": len(boxes), "encoded": count,
        "map": [*whole.grid, args.components], "peak_gb": round(peak, 2),
        "seconds_to_open_and_the_first_batch": round(seconds[0], 1), "seconds_a_window": round(each, 2),
        "cpu_seconds": {
            "windows": round(windows_cpu, 2), "as many middle crops": round(opened_cpu + count * median(crop_cpu), 2),
        },
        "middle_crop_seconds": {"to open": round(opened, 1), "to encode": round(one, 2)}, "torch": torch.__version__,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
