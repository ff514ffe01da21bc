"""API keys and what is derived from the server's secret.

A key has 256 random bits, so its keyed digest needs no slow hash: nobody can try them all, and
without the secret a stolen database cannot even confirm a guess.  The key itself is shown once and
kept nowhere.  Each use of the secret has a label of its own, so that no value made for one purpose
is good for another.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import string
from pathlib import Path

from tribody.core.errors import BadConfig
from tribody.core.private_file import read_or_make

PREFIX = "sk-"
ALPHABET = string.digits + string.ascii_letters
KEY_CHARACTERS = 43  # 62 ** 43 is just above 2 ** 256
SHOWN_CHARACTERS = 4  # the last ones, by which people tell keys apart; 232 bits stay hidden
SECRET_BYTES = 32
MAX_KEY_BYTES = 256  # nothing longer is one of ours


def new_key() -> str:
    """A key that nobody has seen yet."""
    return PREFIX + "".join(secrets.choice(ALPHABET) for _ in range(KEY_CHARACTERS))


def shown(key: str) -> str:
    """So much of a key as may be told, "sk-…wxyz"."""
    return f"{PREFIX}…{key[-SHOWN_CHARACTERS:]}"


def digest(secret: bytes, key: bytes) -> bytes:
    """What is kept in place of a key."""
    return _derived(secret, b"api key", key)


def kv_salt(secret: bytes, tenant_id: str) -> str:
    """What a tenant's entries in the prefix cache are mixed with: no client can choose it."""
    return _derived(secret, b"kv salt", tenant_id.encode()).hex()


def fingerprint(secret: bytes) -> str:
    """By which a database knows the secret that its keys were made with."""
    return _derived(secret, b"fingerprint", b"").hex()


def _derived(secret: bytes, label: bytes, value: bytes) -> bytes:
    return hmac.digest(secret, label + b"\0" + value, hashlib.sha256)


def read_secret(path: Path) -> bytes:
    """The secret in this file, which is made when it is not there.

    Raises: BadConfig when it cannot be read or made, others may read it, or it is no secret.
    """
    secret = read_or_make(
        path, "the secret", lambda: secrets.token_bytes(SECRET_BYTES), SECRET_BYTES
    )
    if len(secret) != SECRET_BYTES:
        raise BadConfig(
            f"the secret {path} does not have {SECRET_BYTES} bytes; restore it, for with another "
            "one no key is known any more"
        )
    return secret
