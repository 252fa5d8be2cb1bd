"""Who may use the control API where more than its operator can connect: whoever has the token, and no web page."""

from __future__ import annotations

import os
import secrets
from hmac import compare_digest
from ipaddress import ip_address
from pathlib import Path

from attrs import frozen
from twisted.application.service import Service
from twisted.web.iweb import IRequest
from typing_extensions import override

from tasksubmit.errors import ConfigurationError
from tasksubmit.tls.files import OTHERS_TOUCH, read_guarded

_TOKEN_BYTES = 32


@frozen
class Barred:
    """Why a request is not let through: the `code` of the error, and what to say."""

    code: str
    message: str


def read_token(path: Path) -> bytes:
    """The token in a file that its owner alone can read; blocks.

    :raises ConfigurationError: when it cannot be read, others can read it, or there is no token in it.
    """
    token = read_guarded(path, OTHERS_TOUCH, "others can read the token of the control API").strip()
    if not token.isalnum():
        raise ConfigurationError(f"{path} holds no token: remove it, and the node makes another")
    return token


def make_token(path: Path) -> None:
    """Put a new token into a file, unless it is there; blocks.

    :raises ConfigurationError: when it cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    except OSError as error:
        raise ConfigurationError(f"the token of the control API cannot be made: {path}: {error.strerror}") from None
    with open(descriptor, "w") as file:
        file.write(secrets.token_hex(_TOKEN_BYTES) + "\n")


class TokenGate(Service):
    """Lets those through who know the token in a file, which is made when it is missing, and read at each start.

    It bars what a web page could have a browser ask: a name in ``Host`` that is not this machine's, since any name can
    be made to lead here, and an ``Origin`` that is not the API's own.
    """

    def __init__(self, path: Path) -> None:
        self.setName("gate")
        self._path = path
        self._token = b""

    @override
    def startService(self) -> None:
        """Read the token.

        :raises ConfigurationError: see `read_token` and `make_token`.
        """
        make_token(self._path)
        self._token = read_token(self._path)
        super().startService()

    def barred(self, request: IRequest) -> Barred | None:
        """Why a request is not let through; None when it is."""
        host = request.getHeader(b"host") or b""
        if not _is_own_name(host):
            return Barred("forbidden", "the Host has to be localhost or an IP address")
        origin = request.getHeader(b"origin")
        if origin is not None and origin not in (b"http://" + host, b"https://" + host):
            return Barred("forbidden", "requests of other origins are not answered")
        scheme, _, token = (request.getHeader(b"authorization") or b"").partition(b" ")
        if scheme.lower() != b"bearer" or not self._token or not compare_digest(token.strip(), self._token):
            return Barred("unauthorized", "the token of the control API is missing or wrong")
        return None


def _is_own_name(host: bytes) -> bool:
    """Whether nobody else can have made this name lead here."""
    name = host.decode("ascii", "replace")
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    try:
        ip_address(name)
    except ValueError:
        return name.lower() == "localhost"
    return True
