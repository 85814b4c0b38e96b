"""What lists of very many files cost: seconds and memory of the process that lists and of a worker, and of their order.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE .venv/bin/python scripts/benchmarks/bench_lists.py [--large]

A set of shards is made by the benchmark: tar files of empty members, whose headers are what a listing reads; of ten
million (`--large`) only the kept indexes, as no disk here holds the headers. Each row is a process of its own, as ranks
and workers are; memory, in MB, is what it has to itself (own) beside what it maps of files, which all processes of the
machine that map it share (mapped).
"""

import argparse
import hashlib
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np

A_SHARD = 10_000
"""Samples, as sets of photos have them."""


def memory() -> tuple[float, float, float]:
    """(own, mapped, the most of both ever) of this process, MB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    kb = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return kb["Anonymous"] / 1e3, (kb["Rss"] - kb["Anonymous"]) / 1e3, int(peak.split()[1]) / 1e3


def tar_of(path: Path, first: int, count: int) -> None:
    """Members without bytes of their own but a header: what a listing has to go through."""
    blocks = bytearray()
    for i in range(first, first + count):
        header = bytearray(512)
        header[:16] = f"{i:012d}.jpg".encode()
        header[100:136] = b"0000644\0" + b"0000000\0" * 2 + b"00000000001\0"
        header[136:148] = b"00000000000\0"
        header[156:157], header[257:265] = b"0", b"ustar\00000"
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        blocks += header + b"x" + bytes(511)
    path.write_bytes(bytes(blocks) + bytes(1024))


def index_of_many(folder: Path, first: int, count: int) -> None:
    """An empty file of a shard's size, and the index that a listing would keep of it."""
    from mae_ext.data.sources import shard_index
    from mae_ext.data.sources.passed_over import PassedOver

    shard = folder / f"{first // count:06d}.tar"
    with shard.open("wb") as file:
        file.truncate(count * 1024 + 1024)
    tails, ends = bytearray(), []
    for i in range(count):
        tails += b"\0%d+1::%012d.jpg" % (512 + 1024 * i, first + i)
        ends.append(len(tails))
    version = shard_index.version_of(str(shard))
    labels = np.full(count, -1, np.int32)
    arrays = np.frombuffer(bytes(tails), np.uint8), np.array(ends, np.int64), labels
    made = shard_index.Indexed(version, *arrays, [], PassedOver())
    file, name = next(iter(shard_index._places(str(shard), f"{['.jpg']} None")))
    with shard_index._turn(file / name) as writing:
        shard_index._write(writing, file / name, json.dumps([version, [".jpg"], None]), made)


def one(what: str, argument: str) -> dict[str, float]:
    """In a process of its own."""
    from mae_ext.data.plan import Plan
    from mae_ext.data.sources import table  # noqa: F401 before the memory is taken

    own, mapped, _ = memory()
    began, cpu = time.perf_counter(), time.process_time()
    extra: dict[str, float] = {}
    if what == "list":
        from mae_ext.data.sources.table import list_items

        items = list_items(argument, (".jpg",))
        extra["seconds"], extra["cpu"] = time.perf_counter() - began, time.process_time() - cpu
        extra["count"] = len(items)
        message = bytes(ForkingPickler.dumps(items))  # as a worker is sent it
        extra["message"] = len(message) / 1e6
        worker = [sys.executable, __file__, "--one", "worker", "-"]
        said = subprocess.run(worker, input=message, stdout=subprocess.PIPE, check=True).stdout
        extra |= {f"worker {key}": value for key, value in json.loads(said).items()}
    elif what == "worker":
        items = pickle.load(sys.stdin.buffer)
        extra["seconds"] = time.perf_counter() - began
        digest = hashlib.sha256()
        for i in np.random.default_rng(0).integers(0, len(items), 10_000):  # as it reads in an hour
            digest.update(items.addresses[int(i)].encode())
    elif what == "fingerprint":
        from types import SimpleNamespace

        from mae_ext.data.sources.table import list_items
        from mae_ext.engine.resume import fingerprint

        config = SimpleNamespace(data=SimpleNamespace(path=argument))
        data = SimpleNamespace(items=list_items(argument, (".jpg",)), config=config, examples=None)
        for name in ("first", "again"):
            began = time.perf_counter()
            fingerprint(data)
            extra[name] = time.perf_counter() - began
    elif what == "order":
        plan = Plan(0, "image", int(argument), batch=1024)
        plan.keys(0)
        extra["first"] = time.perf_counter() - began
        cpu = time.process_time()
        for step in range(100):
            plan.keys(step * 9_973)
        extra["us a key"] = (time.process_time() - cpu) / 102_400 * 1e6
    now = memory()
    return {**extra, "own": now[0] - own, "mapped": now[1] - mapped, "peak": now[2] - own - mapped}


def process(what: str, argument: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", what, argument]
    said = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    row: dict[str, float] = json.loads(said)
    print(f"{what:12} {argument[-40:]:40} " + ", ".join(f"{key} {value:.6g}" for key, value in row.items()), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="ten million files as well: 2 GB of disk, some minutes")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(*args.one)))
        return
    with tempfile.TemporaryDirectory() as work:
        os.environ["XDG_CACHE_HOME"] = f"{work}/cache"
        folder = Path(work, "shards")
        folder.mkdir()
        for shard in range(10):
            tar_of(folder / f"{shard:03d}.tar", shard * A_SHARD, A_SHARD)
        for turn in ("first", "again"):
            row = process("list", str(folder))
            print(f"  {turn}: {row['cpu'] / row['count'] * 1e6:.2f} us of a processor a sample")
        for count in (10**6, 10**7) if args.large else (10**6,):
            many = Path(work, f"{count:.0e}")
            many.mkdir()
            for first in range(0, count, A_SHARD):
                index_of_many(many, first, A_SHARD)
            process("list", str(many))
            process("fingerprint", str(many))
    for count in (1 << 20, 10**9):
        process("order", str(count))


if __name__ == "__main__":
    main()
