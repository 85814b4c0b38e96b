"""Shards at an address such as s3://bucket/000.tar, read in ranges through fsspec: patiently, and checked.

What is transient (a time-out, a reset, a body that ends early, 5xx) is tried again; what is not says so by name.
Nothing said here holds a credential: an address that does is refused, and what libraries say is stripped of queries and
keys.
"""

import contextlib
import io
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from mae_ext.errors import RunError, StoreError, UserError

URL = re.compile(r"(?s)[a-z][a-z0-9+.-]*://.+")

PATIENCE_S = 25.0
"""How long one read is tried in all. A file that takes 30 s in the sandbox is set aside as hung, and this is none."""

ATTEMPT_S = 8.0
BYTES_PER_S = 1 << 20
"""A single try may take this long, and a second more for each of so many bytes: slower is taken for stuck."""

FIRST_WAIT_S = 0.2
"""After the first failure; twice as long after each further one."""

HEADER = 512
"""Bytes of a member's tar header, which is read with it and says whether this is still the shard that was listed."""

NEAR = 64 << 10
"""A read that begins so close behind the one before is taken for a pass through the shard, and is read ahead of."""

MOST_AHEAD = 8 << 20
WINDOWS = 4
"""Read ahead at most, and pieces that are kept: so much memory a process, beside the sample itself."""

VERSIONS = (
    *("ETag", "etag", "generation", "md5Hash", "Content-MD5", "crc32c"),
    *("LastModified", "Last-Modified", "mtime", "created"),
)
"""What file systems call that which changes with a file's content, the surest first."""

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "http": "remote", "https": "remote"}
PASSING = {400, 408, 425, 429}
"""Refusals that pass: too slow, too early, too many at once, and 400, which S3 says of a time-out and aiohttp of an
answer that is none. Every other 4xx stays."""

KEPT_TO_ITSELF = re.compile(
    r"(?i)(\b(?:[\w-]*(?:key|token|secret|signature|credential|password)[\w-]*|authorization)['\"]?\s*[:=]\s*)"
    r"(?:(?:bearer|basic)\s+)?[^\s,;&}]+"
)
"""What is called as a key, and its value."""

_expected: dict[str, str] = {}
_checked: set[str] = set()
_windows: OrderedDict[tuple[str, int], bytes] = OrderedDict()
_last: dict[str, tuple[int, int]] = {}
_lock = threading.Lock()


class _Changed(Exception):
    """What came is not what was listed."""


def is_remote(path: str) -> bool:
    return URL.fullmatch(path) is not None


def check_address(url: str) -> None:
    """Raises UserError, which does not repeat it, for an address with a password, a key or a signature in it."""
    scheme, _, rest = url.partition("://")
    if "@" in rest.partition("/")[0]:
        raise UserError(
            f"data path '{scheme}://...': the address holds a user's name or key, which would go into configs and "
            "logs; leave it out, and give it by the environment (AWS_..., ~/.netrc) or fsspec's own configuration"
        )
    if scheme in ("http", "https") and "?" in rest:
        raise UserError(
            f"data path '{scheme}://{rest.partition('?')[0]}?...': what follows the '?' may be a signature, which "
            "would go into configs and logs; give an address without it"
        )


def redacted(text: str) -> str:
    """Without queries of addresses, names before an @, and whatever is called as a key."""
    text = re.sub(r"(://)[^/\s@'\"]*@", r"\1", text)
    text = re.sub(r"(://[^\s?'\"]*)\?[^\s'\"]*", r"\1", text)
    return KEPT_TO_ITSELF.sub(r"\1***", text)


def shards_at(pattern: str) -> list[str]:
    """The shards that a pattern with * ? [ names, or that lie in a folder, sorted. Raises UserError, RunError."""
    system, path = _system(pattern)
    names = _tried(pattern, lambda: _call(system, "glob", path if set("*?[") & set(path) else _inside(path)))
    return sorted(str(system.unstrip_protocol(name)) for name in names if name.endswith(".tar"))


def version_of(shard: str) -> str:
    """Size and ETag (or what stands for it) of a shard now. Raises UserError where there is none, RunError."""
    return str(_tried(shard, lambda: _version(shard)))


def _version(shard: str) -> str:
    system, path = _system(shard)
    info = _call(system, "info", path)
    if info.get("size") is None:
        raise UserError(f"{shard}: the server does not say its size; serve it by one that does, or copy it")
    return f"{info['size']} {next((info[key] for key in VERSIONS if info.get(key)), '')}"


def known_version(shard: str) -> str:
    """As it was listed, or as it is now where this process has not been told."""
    return _expected.get(shard) or version_of(shard)


def expect(versions: dict[str, str]) -> None:
    """What shards were when they were listed: one that is not so any more is an error when it is first read."""
    _expected.update(versions)


def read_member(shard: str, offset: int, size: int, count: int | None = None) -> bytes:
    """The first `count` bytes, or all, of the member of `size` bytes at `offset`.

    Raises RunError for a shard that changed, or could not be read for `PATIENCE_S` seconds; UserError where there is
    none or it may not be read.
    """
    if shard not in _checked:
        _check_version(shard, version_of(shard))
    count = size if count is None else min(count, size)
    begin = offset - HEADER

    def attempt() -> bytes:
        content = _ahead(shard, begin, HEADER + count, offset + size)
        if not _is_header(content[:HEADER], size):
            _forget(shard)
            raise _Changed(f"no member of {size} bytes at {offset}")
        return content[HEADER:]

    content: bytes = _tried(shard, attempt)
    return content


def read_range(shard: str, begin: int, end: int) -> bytes:
    """Bytes begin..end of a shard, of which all are there. One try."""
    system, path = _system(shard)
    options: dict[str, Any] = {}
    if shard.startswith("http"):
        etag = _expected.get(shard, "").partition(" ")[2]
        options["headers"] = {**system.kwargs.get("headers", {}), "Accept-Encoding": "identity"}
        if etag.startswith('"'):  # a strong one
            options["headers"]["If-Match"] = etag
    content = _call(system, "cat_file", path, start=begin, end=end, patience=(end - begin) / BYTES_PER_S, **options)
    if len(content) > end - begin:
        raise UserError(f"{shard}: the server sent {len(content)} bytes for {end - begin}: it has to know ranges")
    if len(content) < end - begin:
        raise _Changed(f"{len(content)} of {end - begin} bytes came")
    return bytes(content)


class Stream(io.RawIOBase):
    """A shard as a file to list it by: what is small is read through, what is large is skipped."""

    def __init__(self, shard: str, size: int) -> None:
        self._shard, self._size, self._at = shard, size, 0
        self._window, self._begin, self._ahead = b"", 0, NEAR

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, count: int = -1) -> bytes:
        end = self._size if count < 0 else min(self._size, self._at + count)
        behind = self._begin + len(self._window)
        if self._at < end and not self._begin <= self._at <= end <= behind:
            near = behind <= self._at + HEADER <= behind + NEAR + HEADER or self._begin <= self._at <= behind
            self._ahead = min(2 * self._ahead, MOST_AHEAD) if near else NEAR
            begin, last = self._at, max(end, min(self._size, self._at + self._ahead))
            self._window, self._begin = _tried(self._shard, lambda: read_range(self._shard, begin, last)), begin
        content = self._window[self._at - self._begin : end - self._begin] if self._at < end else b""
        self._at += len(content)
        return content


def _ahead(shard: str, begin: int, count: int, end: int) -> bytes:
    """Bytes of a shard, from what is held or by a read that may take more than is asked: `end` is the member's."""
    with _lock:
        for (name, start), window in reversed(_windows.items()):
            if name == shard and start <= begin and begin + count <= start + len(window):
                _windows.move_to_end((name, start))
                _last[shard] = max(_last.get(shard, (0, 0))[0], begin + count), _last.get(shard, (0, 0))[1]
                return window[begin - start : begin - start + count]
        last, ahead = _last.get(shard, (-1, 0))
        ahead = min(max(NEAR, 2 * ahead), MOST_AHEAD) if 0 <= begin - last <= NEAR else 0
    size = int(_expected[shard].partition(" ")[0])
    until = min(size, max(begin + count, min(end, begin + (1 << 20)), begin + ahead))
    content = read_range(shard, begin, until)
    with _lock:
        _last.pop(shard, None)
        _last[shard] = begin + count, ahead
        while len(_last) > 1024:
            del _last[next(iter(_last))]
        if len(content) <= MOST_AHEAD:
            _windows[shard, begin] = content
            while len(_windows) > WINDOWS:
                _windows.popitem(last=False)
    return content[:count]


def _forget(shard: str) -> None:
    with _lock:
        for key in [key for key in _windows if key[0] == shard]:
            del _windows[key]


def _is_header(block: bytes, size: int) -> bool:
    """Whether it is a valid tar header, of a member of `size` bytes where it can say that."""
    try:
        if int(block[148:156].strip(b" \0") or b"0", 8) != 256 + sum(block[:148]) + sum(block[156:]):
            return False
        long = block[124] & 0x80 or size >> 33  # written in another way, or said elsewhere
        return bool(long) or int(block[124:136].strip(b" \0") or b"0", 8) in (0, size)
    except ValueError:
        return False


def _check_version(shard: str, now: str) -> None:
    before = _expected.setdefault(shard, now)
    if before != now:
        raise StoreError(
            f"{shard} changed since it was listed (size and ETag were '{before}', and are '{now}'): its samples are no "
            "longer where they were; start again, which lists it anew, or put back what it was"
        )
    _checked.add(shard)


def _tried(shard: str, attempt: Callable[[], Any]) -> Any:
    """What an attempt gives, after as many as it takes. Raises UserError, RunError."""
    began, wait, tries = time.monotonic(), FIRST_WAIT_S, 0
    while True:
        tries += 1
        try:
            return attempt()
        except (UserError, RunError):
            raise
        except Exception as raised:  # noqa: BLE001 libraries of many makers
            # fsspec calls whatever went wrong over HTTP "not found", and keeps what it was as the cause.
            error = raised.__cause__ if isinstance(raised, FileNotFoundError) and raised.__cause__ else raised
            status = _status(error)
            if status == 404 or isinstance(error, FileNotFoundError):
                raise UserError(f"{shard}: there is no such object (404)") from None
            if status in (401, 403) or isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
                why = f"may not be read ({status or 403}): {_said(error)}"
                raise UserError(f"{shard}: {why}; see to the credentials") from None
            if isinstance(status, int) and 400 <= status < 500 and status not in PASSING | {412, 416}:
                raise UserError(f"{shard}: was refused: {_said(error)}") from None
            if (status in (412, 416) or isinstance(error, _Changed)) and shard in _expected:
                _recheck(shard)
            if time.monotonic() + wait > began + PATIENCE_S:
                over = f"{tries} tries over {time.monotonic() - began:.0f} s"
                raise StoreError(
                    f"{shard}: could not be read in {over}: {_said(error)}; the same command goes on once it can be"
                ) from None
        time.sleep(wait * (0.75 + time.monotonic() % 0.5))  # so that workers do not come back all at once
        wait *= 2


def _status(error: BaseException) -> int | None:
    """Of HTTP, as aiohttp, gcsfs and botocore have it."""
    response = getattr(error, "response", None)
    said = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
    status = said or getattr(error, "status", None) or getattr(error, "code", None)
    return status if isinstance(status, int) else None


def _recheck(shard: str) -> None:
    """Something is not as it was listed: see whether the shard has changed. One try: the next will ask again."""
    _system(shard)[0].invalidate_cache()
    with contextlib.suppress(Exception):
        now = _version(shard)
        _checked.discard(shard)
    if shard not in _checked:
        _check_version(shard, now)


def _said(error: BaseException) -> str:
    return redacted(" ".join(f"{type(error).__name__}: {error}".split()))[:300].removesuffix(": ")


def _inside(path: str) -> str:
    return f"{path.rstrip('/')}/*.tar"


def _call(system: Any, name: str, *args: Any, patience: float = 0.0, **options: Any) -> Any:
    """A method of a file system, under a deadline where that has one."""
    if not system.async_impl:
        return getattr(system, name)(*args, **options)
    from fsspec.asyn import sync

    return sync(system.loop, getattr(system, f"_{name}"), *args, timeout=ATTEMPT_S + patience, **options)


def _system(url: str) -> tuple[Any, str]:
    system = _system_of(url.partition("://")[0], url.partition("://")[2].partition("/")[0])
    return system, system._strip_protocol(url)


@lru_cache(maxsize=64)
def _system_of(scheme: str, host: str) -> Any:
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(f"{scheme}://{host}/")[0]
    except ImportError as error:
        extra = EXTRAS.get(scheme)
        how = f"pip install 'mae-ext[{extra}]'" if extra else "install the package of fsspec that reads it"
        raise UserError(f"{scheme}://: what reads such addresses is not installed ({error}): {how}") from None
    except ValueError as error:
        raise UserError(f"{scheme}://: {redacted(str(error))}; expected s3://, gs:// or https://") from None


def _forked() -> None:
    """A process that was forked has file systems of its own: those of its parent refuse it."""
    _lock.release()
    _system_of.cache_clear()


os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_forked)
