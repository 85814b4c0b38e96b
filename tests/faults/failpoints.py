"""Die before each operation on the disk that a run makes, then go on from there: python -m faults.failpoints.

Every trial is two forks of a process that has imported everything and started nothing.
"""

import os
import sys
from pathlib import Path

from faults.kills import trajectory

EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "fcntl.flock"}


class Failpoint:
    """Counts what is done to files below `root`, and ends the process before operation number `fatal`."""

    def __init__(self, root: Path, fatal: int | None) -> None:
        self.root, self.fatal, self.count = str(root), fatal, 0

    def __call__(self, event: str, arguments: tuple) -> None:
        if event in EVENTS and (event == "fcntl.flock" or any(self.root in str(a) for a in arguments[:2])):
            self.hit()

    def hit(self) -> None:
        if self.count == self.fatal:
            os._exit(9)
        self.count += 1

    def install(self) -> None:
        from mae_ext.engine import commit, log

        def counted(function):
            def call(*arguments, **options):
                self.hit()
                return function(*arguments, **options)

            return call

        # What Python does not audit. Journals write with write(2) through a FileIO.
        os.fsync = counted(os.fsync)
        commit._write = counted(commit._write)
        log.Journal.flush = counted(log.Journal.flush)
        sys.addaudithook(self)


def train(config: str, photos: str, out: Path, fatal: int | None) -> tuple[int, int]:
    """-> (exit code, operations) of a run in a fork."""
    end, start = os.pipe()
    child = os.fork()
    if child == 0:
        from mae_ext.cli import run

        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
        point = Failpoint(out, fatal)
        point.install()
        code = run(["pretrain", config, "--data", photos, "--out", str(out)])
        os.write(start, str(point.count).encode())
        os._exit(code)
    os.close(start)
    count = os.read(end, 100)
    os.close(end)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), int(count or 0)


def main(config: str, photos: str, out: str, every: str) -> None:
    # All that a run imports, so that the forks do not.

    import mae_ext.data.image.reader
    import mae_ext.engine.train  # noqa: F401
    from mae_ext.config import load_config
    from mae_ext.engine.checkpoint import latest

    interval, folder = load_config(config).train.save_every, Path(out)
    folder.mkdir(parents=True)
    code, operations = train(config, photos, folder / "reference", None)
    assert code == 0 and operations > 50, (code, operations)
    reference = trajectory(folder / "reference")
    tried = range(0, operations, int(every))
    for fatal in tried:
        where = folder / f"{fatal:04d}"
        code, _ = train(config, photos, where, fatal)
        assert code == 9, f"failpoint {fatal}: exit code {code}"
        logged = trajectory(where)
        assert logged == reference[: len(logged)], f"failpoint {fatal}"
        newest = latest(where)
        reached = int(newest.name[-8:]) if newest else 0
        # One interval, and what was trained while the save under way was written: less than another.
        assert len(logged) - reached <= 2 * interval, f"failpoint {fatal}: {len(logged)} steps logged, {reached} saved"
        code, _ = train(config, photos, where, None)
        assert code == 0, f"failpoint {fatal}: going on ended with {code}"
        assert trajectory(where) == reference, f"failpoint {fatal}"
        left = [p.name for p in where.rglob("*.tmp-*")]
        assert not left, f"failpoint {fatal}: {left}"
    print(f"{len(tried)} of {operations} failpoints: every run went on to the same bits")


if __name__ == "__main__":
    main(*sys.argv[1:])
