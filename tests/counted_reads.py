"""How many bytes of a file the package's own reading takes; what it reads is what it would read."""

import os
from collections import Counter
from contextlib import contextmanager


@contextmanager
def bytes_read(monkeypatch):
    """-> of(path): bytes of that file that were read inside the block, all openings together."""
    counts, real = Counter(), os.pread

    def pread(handle, count, offset):
        content = real(handle, count, offset)
        counts[os.fstat(handle).st_ino] += len(content)
        return content

    with monkeypatch.context() as patched:
        patched.setattr("mae_ext.data.sources.address.os.pread", pread)
        yield lambda path: counts[path.stat().st_ino]
