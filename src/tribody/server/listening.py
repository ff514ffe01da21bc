"""Taking the address and reading the keys, before anything is fetched or loaded.

Small on purpose: the command line imports this, starts the engine process, and only then imports
the rest of the server, which loads while the engine does.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass, field
from pathlib import Path

from tribody.core.api_settings import DEFAULT_API, ApiSettings
from tribody.core.errors import BadConfig
from tribody.server.aliases import Alias
from tribody.server.auth import KeyFile

LOOPBACK = "127.0.0.1"
LAST_PORT = 65_535
PORTS_TRIED = 100  # when a port is taken, how many after it are tried for the message


@dataclass(frozen=True)
class ServeConfig:
    """How the server listens and ends; models come as a list of `EngineConfig`."""

    host: str = "127.0.0.1"
    port: int = 8000
    api_key_file: Path | None = None
    shutdown_seconds: float = 30.0
    api: ApiSettings = DEFAULT_API
    aliases: dict[str, Alias] = field(default_factory=dict)
    data_dir: Path | None = None  # of uploaded files and batches; None: nothing is kept
    data_dir_required: bool = False  # else a folder that cannot be had is done without
    accounts: bool = False  # keys, prices and balances of the database
    admin_port: int | None = None  # of the admin API, where there are accounts; None: port + 1
    database: str | None = None  # its URL; None: a file in the data folder


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind(host: str, port: int, *, has_keys: bool, option: str = "--port") -> socket.socket:
    """Take the address before anything is loaded, so that a clash shows at once.

    `option`: what the port was given by, for messages.
    Raises: BadConfig when the host is not this machine's own and no keys guard it, when the
    address cannot be used, or when the port is taken (the message names the next free one).
    """
    if not has_keys and not is_loopback(host):
        raise BadConfig(
            f"--host {host}: other machines could use the server without a key; "
            "add --accounts or --api-key-file FILE, or listen on 127.0.0.1"
        )
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, OverflowError) as error:
        raise BadConfig(f"--host {host} {option} {port}: not a usable address: {error}") from error
    try:
        return _listen(family, address)
    except OSError as error:
        if port == 0:
            raise BadConfig(f"--host {host}: cannot listen: {error}") from error
        free = _next_free_port(family, address[0], port)
        advice = f"; port {free} is free: {option} {free}" if free else ""
        if free and option == "--port":
            advice += f" (make serve PORT={free})"
        raise BadConfig(f"{option} {port} cannot be used: {error.strerror}{advice}") from error


def _listen(family: int, address: tuple[object, ...]) -> socket.socket:
    # With the protocol named: plain asyncio turns Nagle's delay off for no other socket.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except BaseException:
        listener.close()
        raise
    return listener


def _next_free_port(family: int, host: object, taken: int) -> int | None:
    for port in range(taken + 1, min(taken + PORTS_TRIED, LAST_PORT) + 1):
        try:
            _listen(family, (host, port)).close()
        except OSError:
            continue
        return port
    return None


@dataclass(frozen=True)
class Listening:
    """The address is taken and the keys are read: what can go wrong early has gone right."""

    listener: socket.socket
    keys: KeyFile | None
    admin: socket.socket | None = None  # of the admin API: on loopback, whatever --host says

    def close(self) -> None:
        self.listener.close()
        if self.admin is not None:
            self.admin.close()


def listen(config: ServeConfig) -> Listening:
    """Take the address and read the keys, before anything is fetched or loaded.

    Raises: BadConfig.
    """
    if config.admin_port is not None and not config.accounts:
        raise BadConfig("--admin-port: there is an admin API with --accounts only; add that")
    if config.accounts and config.api_key_file is not None:
        raise BadConfig(
            "--accounts and --api-key-file both say whose keys are taken; leave one of them out"
        )
    keys = None if config.api_key_file is None else KeyFile.read(config.api_key_file, config.api)
    has_keys = config.accounts or keys is not None
    listener = bind(config.host, config.port, has_keys=has_keys)
    try:
        return Listening(listener, keys, bind_admin(config) if config.accounts else None)
    except BadConfig:
        listener.close()
        raise


def bind_admin(config: ServeConfig) -> socket.socket:
    """Take `--admin-port` of 127.0.0.1, else the port after the public one; 0 = any that is free.

    Raises: BadConfig when it cannot be had.
    """
    port = config.admin_port
    if port is None:
        port = config.port + 1 if config.port else 0
    if port > LAST_PORT:
        raise BadConfig(f"there is no port after {LAST_PORT} for the admin API; give --admin-port")
    return bind(LOOPBACK, port, has_keys=True, option="--admin-port")
