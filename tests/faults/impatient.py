"""mae-ext where a collective is waited for two seconds, and a probe takes four: python -m faults.impatient ..."""

import sys
import time
from datetime import timedelta

from mae_ext import cli
from mae_ext.engine import distributed
from mae_ext.probing import during

distributed.COLLECTIVE_TIMEOUT = timedelta(seconds=2)
probe_encoder = during.probe_encoder


def slowly(*arguments, **options):
    time.sleep(4)
    return probe_encoder(*arguments, **options)


during.probe_encoder = slowly

if __name__ == "__main__":
    sys.exit(cli.run())
