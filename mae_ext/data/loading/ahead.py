"""Samples in the order of their list, decoded by threads ahead of their use."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from mae_ext.cores import cores
from mae_ext.data.sample import CropSampler, Reader, Sample, read_checked
from mae_ext.data.sources.path_table import PathTable
from mae_ext.errors import BadSample


def read_ahead(
    reader: Reader, addresses: Sequence[str] | PathTable, crop: CropSampler, threads: int | None = None
) -> Iterator[Sample | BadSample]:
    """Every address's sample, or why there is none. Pillow lets go of the interpreter lock, as torch does.

    threads: default one per core, at most 8. At most four samples per thread are decoded ahead of their use.
    """

    def read(index: int) -> Sample | BadSample:
        try:
            return read_checked(reader, addresses[index], [crop])[0]
        except BadSample as error:
            return error

    threads = threads or min(8, cores())
    indices = iter(range(len(addresses)))
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        ahead: deque[Future[Sample | BadSample]] = deque(pool.submit(read, i) for i in islice(indices, 4 * threads))
        try:
            while ahead:
                outcome = ahead.popleft().result()
                ahead.extend(pool.submit(read, i) for i in islice(indices, 1))
                yield outcome
        finally:
            for future in ahead:
                future.cancel()
