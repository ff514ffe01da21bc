"""Who may operate the server: whoever can read one file of its data folder."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from pathlib import Path

from tribody.core.errors import BadConfig
from tribody.core.private_file import read_or_make

TOKEN_FILE = "admin-token"  # in the data folder
TOKEN_BYTES = 32
TOKEN = re.compile(rb"[!-~]{32,256}")  # an operator may write one of his own into the file


class AdminToken:
    """Knows the token when it is shown; keeps its digest only."""

    def __init__(self, token: bytes) -> None:
        self._digest = hashlib.sha256(token).digest()

    @classmethod
    def read(cls, path: Path) -> AdminToken:
        """The token in this file, which is made when it is not there.

        Raises: BadConfig when it cannot be read or made, others may read it, or it is no token.
        """
        what = "the admin token"
        content = read_or_make(path, what, _new_token, 256)
        token = content.removesuffix(b"\n")
        if not TOKEN.fullmatch(token):
            raise BadConfig(
                f"{what} {path} is not 32 to 256 visible ASCII characters; remove the file to have "
                "a new one made"
            )
        return cls(token)

    def is_same(self, given: bytes) -> bool:
        """In a time that depends on the length of `given` alone."""
        return hmac.compare_digest(self._digest, hashlib.sha256(given).digest())


def _new_token() -> bytes:
    return secrets.token_urlsafe(TOKEN_BYTES).encode() + b"\n"
