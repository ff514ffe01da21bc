"""Who may come in: API keys from a file, or nobody but this machine.

Keys of a file are kept as SHA-256 digests (they are high-entropy secrets, so a slow hash would only
slow every request).  With accounts the keys are the database's: `accounts`.

A key is given as `Authorization: Bearer KEY`; on Anthropic's paths also, as its clients do, as
`x-api-key: KEY`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from tribody.core.api_settings import DEFAULT_API, ApiSettings, with_options
from tribody.core.errors import BadConfig
from tribody.core.principal import LOCAL, Principal
from tribody.server.errors import Forbidden, Refusal, Unauthorized

MIN_KEY_CHARACTERS = 8
ANTHROPIC = "/anthropic/"
OPEN_PATHS = frozenset({"/health", "/livez", "/readyz"})
# Probes carry no key and learn nothing but alive or not; every other path needs one.


class Keys(Protocol):
    """Where keys are known: a file, or the accounts."""

    def find(self, key: bytes) -> Principal | None:
        """Raises: Forbidden for one that is known and may not be used now; Unauthorized, in the
        words of `unknown_key`, for one that may not be used any more."""

    def of_key(self, key_id: str) -> Principal | None:
        """Whom a key stands for, without the key: for work that is left.  None: it may not come in
        now."""


@dataclass(frozen=True)
class KeyFile:
    """Digests of the accepted keys, each with its settings; the keys themselves are not kept."""

    digests: dict[bytes, ApiSettings]

    @classmethod
    def read(cls, path: Path, api: ApiSettings = DEFAULT_API) -> KeyFile:
        """Read one key per line, then its own settings: `KEY profile=2025 errors=openai`.

        Blank lines and lines that start with `#` are skipped; `api` holds for what a line does not
        say.  Raises: BadConfig when the file cannot be read, holds no key, a key too short to be
        one, or a setting that does not exist.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadConfig(f"--api-key-file {path}: cannot be read: {error}") from error
        lines = [line.strip() for line in text.splitlines()]
        lines = [line for line in lines if line and not line.startswith("#")]
        if not lines:
            raise BadConfig(f"--api-key-file {path}: holds no key; write one key per line")
        digests: dict[bytes, ApiSettings] = {}
        for number, line in enumerate(lines, 1):
            key, _, options = line.partition(" ")
            if len(key) < MIN_KEY_CHARACTERS:
                raise BadConfig(
                    f"--api-key-file {path}: key {number} has {len(key)} characters; "
                    f"at least {MIN_KEY_CHARACTERS} are needed"
                )
            try:
                digests[hashlib.sha256(key.encode()).digest()] = with_options(api, options)
            except ValueError as error:
                raise BadConfig(f"--api-key-file {path}: key {number}: {error}") from None
        return cls(digests)

    def find(self, key: bytes) -> Principal | None:
        """The principal of `key`, comparing with every digest in constant time."""
        digest = hashlib.sha256(key).digest()
        found: bytes | None = None
        for known in self.digests:
            if hmac.compare_digest(known, digest):
                found = known
        if found is None:
            return None
        return self._principal(found)

    def of_key(self, key_id: str) -> Principal | None:
        known = map(self._principal, self.digests)
        return next((one for one in known if one.key_id == key_id), None)

    def _principal(self, digest: bytes) -> Principal:
        name = digest.hex()[:16]
        return Principal(tenant_id=f"key-{name}", key_id=name[:8], api=self.digests[digest])


def authenticate(
    headers: Iterable[tuple[bytes, bytes]],
    keys: Keys | None,
    api: ApiSettings = DEFAULT_API,
    path: str = "",
) -> Principal:
    """Name the caller.  Without keys everyone is LOCAL (the server then listens on loopback only)
    and is spoken to as `api` says.

    Raises: Unauthorized (401) when keys are asked for and none, several, a malformed or an unknown
    one is given; Forbidden (403) when it may not be used now.
    """
    if keys is None:
        return msgspec.structs.replace(LOCAL, api=api)
    key = given_key(headers, path)
    principal = keys.find(key)
    if principal is None:
        raise unknown_key(key)
    return principal


def given_key(headers: Iterable[tuple[bytes, bytes]], path: str = "") -> bytes:
    """The one key of a request.  Raises: Unauthorized where there is none, or not exactly one."""
    names = {b"authorization", b"x-api-key"} if path.startswith(ANTHROPIC) else {b"authorization"}
    found = [(name, _key_of(name, value)) for name, value in headers if name in names]
    given = [key for _, key in found]
    if len({name for name, _ in found}) == 2 == len(found) and given[0] == given[1]:
        given.pop()  # Anthropic's clients may send one key in both headers
    if not given:
        raise Unauthorized(
            "Authentication Fails, no API key was given; send the header 'Authorization: Bearer "
            "<key>'.",
            "missing",
        )
    if len(given) > 1 or not given[0]:
        raise Unauthorized(
            "Authentication Fails, the key must be given once, as 'Authorization: Bearer <key>'.",
            "malformed",
        )
    return given[0]


def unknown_key(key: bytes, reason: Refusal = "unknown") -> Unauthorized:
    """What is said of a key that is none of ours, or no longer: its last characters, as DeepSeek
    does."""
    shown = key[-4:].decode("ascii", "replace") if len(key) > 3 * 4 else ""
    shown = shown if shown.isalnum() else ""
    return Unauthorized(f"Authentication Fails, Your api key: ****{shown} is invalid", reason)


def check_routes(caller: Principal, label: str) -> None:
    """Raises: Forbidden where the caller's key is for other routes than those of this label."""
    if caller.routes is not None and label not in caller.routes:
        raise Forbidden(
            f"This API key is not for {label}; it is for {', '.join(sorted(caller.routes))}. Use "
            "another."
        )


def _key_of(name: bytes, value: bytes) -> bytes:
    """The key in one header; empty when the header is malformed."""
    if name == b"x-api-key":
        return value.strip()
    scheme, _, key = value.partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" else b""


def cache_salt(principal: Principal, user: str) -> str:
    """The root of this caller's prefix-cache keys: tenant, and the tenant's end user if named."""
    tenant = principal.kv_salt or principal.tenant_id
    text = f"{len(tenant)}:{tenant}:{user}"
    return hashlib.sha256(text.encode()).hexdigest()
