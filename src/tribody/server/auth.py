"""Who may come in: API keys from a file, or nobody but this machine.

Keys are kept as SHA-256 digests (they are high-entropy secrets, so a slow hash would only slow
every request).  Tenants, quotas and revocation are a later issue; it replaces `KeyFile` and keeps
`authenticate`'s signature.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tribody.core.errors import BadConfig
from tribody.core.principal import LOCAL, Principal
from tribody.server.errors import Unauthorized

MIN_KEY_CHARACTERS = 8
OPEN_PATHS = frozenset({"/health", "/livez", "/readyz"})
# Probes carry no key and learn nothing but alive or not; every other path needs one.


@dataclass(frozen=True)
class KeyFile:
    """Digests of the accepted keys; the keys themselves are not kept."""

    digests: tuple[bytes, ...]

    @classmethod
    def read(cls, path: Path) -> KeyFile:
        """Read one key per line; blank lines and lines that start with `#` are skipped.

        Raises: BadConfig when the file cannot be read, holds no key or a key too short to be one.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadConfig(f"--api-key-file {path}: cannot be read: {error}") from error
        keys = [line.strip() for line in text.splitlines()]
        keys = [key for key in keys if key and not key.startswith("#")]
        if not keys:
            raise BadConfig(f"--api-key-file {path}: holds no key; write one key per line")
        for number, key in enumerate(keys, 1):
            if len(key) < MIN_KEY_CHARACTERS:
                raise BadConfig(
                    f"--api-key-file {path}: key {number} has {len(key)} characters; "
                    f"at least {MIN_KEY_CHARACTERS} are needed"
                )
        return cls(tuple(hashlib.sha256(key.encode()).digest() for key in keys))

    def find(self, key: bytes) -> Principal | None:
        """The principal of `key`, comparing with every digest in constant time."""
        digest = hashlib.sha256(key).digest()
        found: bytes | None = None
        for known in self.digests:
            if hmac.compare_digest(known, digest):
                found = known
        if found is None:
            return None
        name = found.hex()[:16]
        return Principal(tenant_id=f"key-{name}", key_id=name[:8])


def authenticate(headers: Iterable[tuple[bytes, bytes]], keys: KeyFile | None) -> Principal:
    """Name the caller.  Without keys everyone is LOCAL (the server then listens on loopback only).

    Raises: Unauthorized (401) when keys are asked for and the header is absent, repeated,
    malformed or holds no known key.
    """
    if keys is None:
        return LOCAL
    values = [value for name, value in headers if name == b"authorization"]
    if not values:
        raise Unauthorized("No API key given; send the header 'Authorization: Bearer <key>'.")
    scheme, _, key = values[0].partition(b" ")
    if len(values) > 1 or scheme.lower() != b"bearer" or not key.strip():
        raise Unauthorized("The Authorization header must be 'Bearer <key>', once.")
    principal = keys.find(key.strip())
    if principal is None:
        raise Unauthorized("The API key is not valid.")
    return principal


def cache_salt(principal: Principal, user: str) -> str:
    """The root of this caller's prefix-cache keys: tenant, and the tenant's end user if named."""
    text = f"{len(principal.tenant_id)}:{principal.tenant_id}:{user}"
    return hashlib.sha256(text.encode()).hexdigest()
