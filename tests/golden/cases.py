"""What the golden cases do, through what a user has: config files, the commands, and the files that they write.

A case is a function of the folder of the process, where `inputs/` is, to a tree of values. Runs are in `runs/`; a case
that needs another's run asks for it by its name. As little as can be is imported of the package, so that these cases
go on while its files move.
"""

from golden import cases_pretraining, cases_tasks
from golden.case import CASES, made

__all__ = ["CASES", "LOADED", "made"]
LOADED = (cases_pretraining, cases_tasks)
