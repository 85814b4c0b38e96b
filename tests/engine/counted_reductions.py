"""A rank's program that counts, in the file RANK.json of the folder COUNTS, how often its gradients were exchanged."""

import json
import os
import sys
from pathlib import Path

from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from mae_ext.cli import run
from mae_ext.engine import compiling, parallel

COUNT = [0]


def counted(group, bucket):
    COUNT[0] += bucket.is_last()
    return allreduce_hook(group, bucket)


class Counting(parallel.DistributedDataParallel):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register_comm_hook(None, counted)


if __name__ == "__main__":
    compiling.BACKEND = "aot_eager"
    parallel.DistributedDataParallel = Counting
    code = run(sys.argv[1:])
    Path(os.environ["COUNTS"], f"{os.environ['RANK']}.json").write_text(json.dumps(COUNT[0]))
    sys.exit(code)
