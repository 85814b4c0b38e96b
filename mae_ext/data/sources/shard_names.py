"""Which tar shards a path means: one, braces, a pattern, or an address."""

import errno
import re
from pathlib import Path

from mae_ext.data.sources import remote
from mae_ext.errors import UserError

MAX_SHARDS = 100_000


def shards_of(path: str) -> list[str]:
    """The tar shards that a path names by itself, with braces, by a pattern, or at an address; none where it names
    something else. Raises UserError."""
    where = f"data path '{path}'"
    if remote.is_remote(path):
        return _remote_shards(path, where)
    if not path.endswith(".tar"):
        return []
    if not exists(Path(path), where) and set("{*?[") & set(path):
        return expand(path, where)
    return [path] if Path(path).is_file() else []


def expand(pattern: str, where: str) -> list[str]:
    """Braces, then glob. Every shard that braces name must be there."""
    shards: list[str] = []
    for name in _braces([pattern], where):
        if set("*?[") & set(name):
            parent = Path(name).parent
            shards += sorted(str(p) for p in parent.glob(Path(name).name))
        else:
            shards.append(name)
    if missing := [s for s in shards if not Path(s).is_file()]:
        raise UserError(f"{where}: {len(missing)} of {len(shards)} shards are missing, the first is '{missing[0]}'")
    if not shards:
        raise UserError(f"{where}: no shard matches")
    return shards


def _remote_shards(pattern: str, where: str) -> list[str]:
    """Braces, then what * ? [ name, or the shards of a folder."""
    shards: list[str] = []
    for name in _braces([pattern], where):
        whole = name.endswith(".tar") and not set("*?[") & set(name)
        shards += [name] if whole else remote.shards_at(name)
    if not shards:
        raise UserError(f"{where}: no shard (.tar) there; at an address, tar shards are read and nothing else")
    return shards


def _braces(names: list[str], where: str) -> list[str]:
    """a-{08..10}-{x,y}.tar -> six names; leading zeros are kept."""
    done: list[str] = []
    while names:
        name = names.pop(0)
        braces = re.search(r"\{(?:(\d{1,9})\.\.(\d{1,9})|([^{}]*,[^{}]*))\}", name)
        if braces is None:
            done.append(name)
            continue
        first, last, words = braces.groups()
        if words is None and not 0 <= int(last) - int(first) < MAX_SHARDS:
            raise UserError(f"{where}: {braces[0]}: expected FIRST..LAST, rising, of at most {MAX_SHARDS} shards")
        parts = words.split(",") if words else [f"{i:0{len(first)}}" for i in range(int(first), int(last) + 1)]
        names[:0] = [name[: braces.start()] + part + name[braces.end() :] for part in parts]
        if len(names) + len(done) > MAX_SHARDS:
            raise UserError(f"{where}: more than {MAX_SHARDS} shards")
    return done


def exists(path: Path, where: str) -> bool:
    """Raises UserError for what cannot be told. where: how the message names it."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise UserError(f"{where}: cannot be opened: {error.strerror}") from error
    return True
