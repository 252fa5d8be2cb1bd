"""The endpoint strings that come with ``tasksubmit``, for any program on Twisted.

``mtls:INNER`` puts mutual TLS around another endpoint, with both ends known by their keys or by a CA's word. Every
program that reads an endpoint string imports this file, so TLS itself is imported when such a string is met.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from twisted.internet.interfaces import (
    IStreamClientEndpoint,
    IStreamClientEndpointStringParserWithReactor,
    IStreamServerEndpoint,
    IStreamServerEndpointStringParser,
)
from twisted.plugin import IPlugin
from zope.interface import implementer


@implementer(IPlugin, IStreamServerEndpointStringParser, IStreamClientEndpointStringParserWithReactor)
class MutualTLSParser:
    """``mtls:``; what its options mean is in `tasksubmit.tls.strings`."""

    prefix = "mtls"

    def parseStreamServer(self, reactor: Any, *args: object, **kwargs: object) -> IStreamServerEndpoint:
        """``mtls:tcp:11003:directory=DIR``, for instance."""
        endpoint: IStreamServerEndpoint = import_module("tasksubmit.tls.strings").make_server(reactor, args, kwargs)
        return endpoint

    def parseStreamClient(self, reactor: Any, *args: object, **kwargs: object) -> IStreamClientEndpoint:
        """``mtls:tcp:bob.example:11003:peer=bob:directory=DIR``, for instance."""
        endpoint: IStreamClientEndpoint = import_module("tasksubmit.tls.strings").make_client(reactor, args, kwargs)
        return endpoint


mutual_tls = MutualTLSParser()
