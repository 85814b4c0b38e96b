"""A NRRD is read in its own world, or refused by name."""

import gzip

import numpy as np
import pytest

from mae_ext.config import AugmentConfig
from mae_ext.data.crops import evaluation_sampler
from mae_ext.data.volume.reader import VolumeReader
from mae_ext.errors import BadSample

NRRD = """NRRD0004
type: {type}
dimension: 3
space: {space}
sizes: 9 10 11
space directions: (1.5,0,0) (0,2,0) (0,0,3)
kinds: domain domain domain
endian: little
encoding: {encoding}
space origin: (0,0,0)

"""


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_nrrd_is_read_in_its_own_world(tmp_path, encoding):
    data = np.random.default_rng(0).integers(0, 200, (9, 10, 11)).astype(np.int16)
    raw, path = data.tobytes("F"), tmp_path / "a.nrrd"
    crop = evaluation_sampler(AugmentConfig(fixed=(0, 1, 2)), (11, 10, 9))

    def write(text=NRRD, space="left-posterior-superior", body=None, **fields):
        fields = {"type": "short", "encoding": encoding, "space": space} | fields
        body = body if body is not None else gzip.compress(raw) if encoding == "gzip" else raw
        path.write_bytes(text.format(**fields).encode() + body)
        return VolumeReader((11, 10, 9), intensity="none").read(str(path), [crop])[0]

    sample = write()
    np.testing.assert_array_equal(sample.x[0].numpy(), data.T[:, ::-1, ::-1])
    assert sample.spacing == (3.0, 2.0, 1.5)
    np.testing.assert_array_equal(write(space="RAS").x[0].numpy(), data.T)
    for bad, kind in (
        ({"body": raw[:100]}, "truncated" if encoding == "raw" else "damaged"),
        ({"type": "block"}, "data type"),
        ({"encoding": "bzip2"}, "header"),
        ({"space": "3D-left-handed"}, "geometry"),
        ({"text": NRRD.replace("9 10 11", "9 10")}, "header"),
        ({"text": NRRD.replace("9 10 11", "9000 10000 11000")}, "truncated"),
        ({"text": NRRD.replace("kinds", "data file: b.raw\nkinds")}, "no such file"),
        ({"text": NRRD.replace("kinds", "data file: /b.raw\nkinds")}, "header"),
        ({"text": NRRD.rstrip("\n"), "body": b""}, "truncated"),
        ({"text": "NRRX" + NRRD[4:]}, "not a scan"),
    ):
        with pytest.raises(BadSample) as found:
            write(**bad)
        assert found.value.kind == kind or found.value.kind == "too large", bad
