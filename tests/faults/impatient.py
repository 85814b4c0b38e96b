"""mae-ext where a probe takes four seconds: python -m faults.impatient ..."""

import sys
import time

from mae_ext import cli
from mae_ext.probing import during

probe_encoder = during.probe_encoder


def slowly(*arguments, **options):
    time.sleep(4)
    return probe_encoder(*arguments, **options)


during.probe_encoder = slowly

if __name__ == "__main__":
    sys.exit(cli.run())
