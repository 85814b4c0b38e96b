"""Pictures as bytes, and the databases and tables that hold them."""

import io

import numpy as np
from PIL import Image


def png(seed, side=20):
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def lmdb_of(path, values, subdir=True, page_deletes=()):
    """An LMDB of key -> bytes, written by the library; `page_deletes` are taken out again."""
    import lmdb

    with lmdb.open(str(path), map_size=1 << 24, subdir=subdir) as base:
        with base.begin(write=True) as writing:
            for key, value in values.items():
                writing.put(key, value)
        with base.begin(write=True) as writing:
            for key in page_deletes:
                writing.delete(key)
