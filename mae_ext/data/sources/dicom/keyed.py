"""Who a patient is, and which study and series, leave DICOM headers as keyed hashes alone: HMAC-SHA256.

Without the key nobody can try names or numbers until a hash fits. It is `MAE_EXT_DICOM_KEY`, or lies in
`$XDG_CONFIG_HOME/mae_ext/dicom.key` (else `~/.config`), made once, which its owner alone may read. Who has the same key
gets the same hashes: to use an `index.csv` on another machine, take the key there.
"""

import hashlib
import hmac
import os
from pathlib import Path

from mae_ext.errors import UserError

VARIABLE = "MAE_EXT_DICOM_KEY"
LEAST = 16
"""Letters of a key from the environment: a shorter one could be found by trying."""

SHOWN = 8
"""Of them, where people read them."""

DIGITS = 16
"""Hexadecimal, 64 bits: a million series share none by chance (1 in 36 million)."""


def key() -> bytes:
    """The key, made and kept where there is none. Raises UserError where it cannot be."""
    chosen = os.environ.get(VARIABLE)
    if chosen is not None:
        if len(chosen) < LEAST:
            raise UserError(
                f"{VARIABLE} has {len(chosen)} letters; expected {LEAST} or more, as of `openssl rand -hex 32`"
            )
        return chosen.encode("utf-8", "surrogateescape")
    path = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "mae_ext" / "dicom.key"
    try:
        return _kept(path)
    except OSError as error:
        raise UserError(
            f"{path}: the key that hides who patients are cannot be kept: {error.strerror}; set {VARIABLE} to {LEAST} "
            "or more letters instead, the same on every machine"
        ) from None


def _kept(path: Path) -> bytes:
    try:
        content = path.read_bytes().strip()
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        beside = path.with_name(f"{path.name}.tmp-{os.getpid()}-{os.urandom(4).hex()}")
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(os.urandom(32).hex().encode())
                file.flush()
                os.fsync(file.fileno())
            os.link(beside, path)  # of several processes one makes it
        except FileExistsError:
            pass
        finally:
            beside.unlink()
        content = path.read_bytes().strip()
    if len(content) < LEAST:
        raise UserError(
            f"{path}: holds {len(content)} letters, and a key has {LEAST} or more; remove it, and one is made"
        )
    return content


def hashed(secret: bytes, what: str, value: str) -> str:
    """16 hexadecimal digits. what: "patient", "series", ...: one number means other things in other places."""
    return hmac.new(secret, f"{what}\0{value}".encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()[:DIGITS]


def hidden(what: str, value: str) -> str:
    """As `hashed`, short, for a message; "?" where there is no key."""
    try:
        return f"{what} {hashed(key(), what, value)[:SHOWN]}"
    except UserError:
        return f"{what} ?"
