"""mae-ext where a probe takes four seconds: python -m faults.impatient ...

With SHORT_OF_MEMORY in the environment there is none for copies of a checkpoint.
"""

import os
import sys
import time

from mae_ext import cli
from mae_ext.engine import saves
from mae_ext.probing import during

if "SHORT_OF_MEMORY" in os.environ:
    saves.free_memory = lambda: 0

probe_encoder = during.probe_encoder


def slowly(*arguments, **options):
    time.sleep(4)
    return probe_encoder(*arguments, **options)


during.probe_encoder = slowly

if __name__ == "__main__":
    sys.exit(cli.run())
