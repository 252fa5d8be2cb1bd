"""``mtls:`` before any endpoint string: what its options mean. Loaded when such a string is read, and not before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.endpoints import clientFromString, serverFromString

from tasksubmit.tls.credentials import Credentials, Files
from tasksubmit.tls.endpoints import MutualTLSClientEndpoint, MutualTLSServerEndpoint

_FILES = ("certificate", "key", "trust", "ca")


def make_server(reactor: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> MutualTLSServerEndpoint:
    """The endpoint of ``mtls:INNER:directory=DIR``, or with each file named.

    :raises ValueError: an option is missing, or there is none of that name; or as the inner endpoint has it.
    """
    credentials = _taken(options)
    return MutualTLSServerEndpoint(serverFromString(reactor, _joined(arguments, options)), credentials, reactor)


def make_client(reactor: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> MutualTLSClientEndpoint:
    """The endpoint of ``mtls:INNER:peer=NAME:directory=DIR``, or with each file named.

    :raises ValueError: an option is missing, or there is none of that name; or as the inner endpoint has it.
    """
    credentials, name = _taken(options), options.pop("peer", "")
    if not name:
        raise ValueError("mtls: needs peer=NAME, who has to be there")
    inner = clientFromString(reactor, _joined(arguments, options))
    return MutualTLSClientEndpoint(inner, credentials, name, reactor)


def _taken(options: dict[str, str]) -> Credentials:
    """What one's own options say; the others are left to the inner endpoint."""
    directory = options.pop("directory", "")
    paths = {name: Path(options.pop(name)) for name in _FILES if name in options}
    if directory and not paths:
        return Credentials.of_directory(Path(directory))
    if directory or not {"certificate", "key"} <= paths.keys() or not {"trust", "ca"} & paths.keys():
        raise ValueError(
            "mtls: needs either directory=DIR, or certificate=FILE and key=FILE and one of trust=FILE and ca=FILE"
        )
    files = Files(paths["certificate"], paths["key"], paths.get("trust"), paths.get("ca"))
    return Credentials(lambda: files)


def _joined(arguments: tuple[str, ...], options: dict[str, str]) -> str:
    """The string of the inner endpoint."""
    return ":".join([*map(_quoted, arguments), *(f"{name}={_quoted(text)}" for name, text in options.items())])


def _quoted(text: str) -> str:
    for special in "\\:=":
        text = text.replace(special, "\\" + special)
    return text
