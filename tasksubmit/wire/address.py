"""Addresses of agents, ``N:NNNN.HHHH.LLLL``, with and without a port (wire.md, section 2).

The network comes first in decimal and then again in hex; the two must agree. The node follows in two hex groups.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from attrs import field, frozen

from tasksubmit.errors import InvalidAddress
from tasksubmit.validation import INTEGER, TEXT, instance_of, iterable, wrong_type

_MAX_NETWORK = 2**16 - 1
_MAX_NODE = 2**32 - 1
_MAX_PORT = 2**16 - 1

# Leading zeros are not captured: however many there are, no number is made of them.
_ADDRESS = re.compile(r"(?=[0-9])0*([0-9]{0,5}):([0-9A-Fa-f]{4})\.([0-9A-Fa-f]{4})\.([0-9A-Fa-f]{4})")
_PORT = re.compile(r"(?=[0-9])0*([0-9]{0,5})")

_LONGEST_KEPT = 64
"""Characters of the longest text that is worth remembering; a longer one has zeros without end."""


@frozen(order=True, cache_hash=True)
class Address:
    """Where an agent lives in the Pilot overlay. Hashable, and ordered by network, then node.

    :ivar network: 0 to 65535.
    :ivar node: 0 to 2**32 - 1.
    :raises InvalidAddress: one of the two is out of its range.
    :raises TypeError: one of the two is no whole number; a string is read by `parse`.
    """

    network: int
    node: int
    _text: str = field(init=False, eq=False, repr=False)

    @_text.default
    def _print(self) -> str:
        INTEGER.check("network", self.network)
        INTEGER.check("node", self.node)
        for name, number, most in (("network", self.network, _MAX_NETWORK), ("node", self.node, _MAX_NODE)):
            if not 0 <= number <= most:
                raise InvalidAddress(f"{name} must be from 0 to {most}, not {number}")
        return f"{self.network}:{self.network:04X}.{self.node >> 16:04X}.{self.node & 0xFFFF:04X}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address.

        :param text: as printed, or with any number of leading zeros in the first part, or with lower-case hex digits.
        :raises InvalidAddress: it is no such text, or its two spellings of the network differ.
        :raises TypeError: it is no string.
        """
        TEXT.check("text", text)
        return _parse_again(text) if len(text) <= _LONGEST_KEPT else _parse(text)

    def __str__(self) -> str:
        """Print the canonical text, for example ``1:0001.F291.0004``."""
        return self._text


_ADDRESSES = instance_of(Address)


def _parse(text: str) -> Address:
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise InvalidAddress(f"{text[:80]!r} is not an address like 1:0001.F291.0004")
    decimal, network, high, low = match.groups()
    if int(decimal or "0") != int(network, 16):
        raise InvalidAddress(
            f"{text[:80]!r} names two networks, {decimal or 0} and {int(network, 16)}; they must agree"
        )
    return Address(int(network, 16), int(high + low, 16))


# Peers are few and messages many: nearly every address that is read has been read before.
_parse_again = lru_cache(maxsize=4096)(_parse)


@frozen(order=True)
class SocketAddress:
    """An address and a port on it.

    :ivar address: the agent.
    :ivar port: 0 to 65535.
    :raises InvalidAddress: the port is out of its range.
    """

    address: Address
    port: int

    def __attrs_post_init__(self) -> None:
        _ADDRESSES.check("address", self.address)
        INTEGER.check("port", self.port)
        if not 0 <= self.port <= _MAX_PORT:
            raise InvalidAddress(f"port must be from 0 to {_MAX_PORT}, not {self.port}")

    @classmethod
    def parse(cls, text: str) -> SocketAddress:
        """Read an address, a colon and a port.

        :param text: for example ``1:0001.F291.0004:1003``.
        :raises InvalidAddress: it is no such text.
        :raises TypeError: it is no string.
        """
        TEXT.check("text", text)
        address, _, port = text.rpartition(":")
        match = _PORT.fullmatch(port)
        if match is None:
            raise InvalidAddress(f"{text[:80]!r} is not an address and a port like 1:0001.F291.0004:1003")
        return cls(Address.parse(address), int(match.group(1) or "0"))

    def __str__(self) -> str:
        """Print the canonical text, for example ``1:0001.F291.0004:1003``."""
        return f"{self.address}:{self.port}"


# --- what callers give in place of addresses ----------------------------------------------------------------------


def to_address(value: Address | str, name: str) -> Address:
    """Return an address, given as one or as a string; see `tasksubmit.validation`.

    :param name: the name of the parameter.
    :raises TypeError: it is neither.
    :raises InvalidAddress: it is a string of another form.
    """
    if isinstance(value, Address):
        return value
    if not isinstance(value, str):
        raise wrong_type(name, "an Address or a string such as '0:0000.0000.0002'", value)
    try:
        return _parse(value)
    except InvalidAddress as error:
        raise InvalidAddress(f"{name}: {error}") from None


def to_address_or_none(value: Address | str | None, name: str) -> Address | None:
    """Return an address like `to_address`, or None."""
    return None if value is None else to_address(value, name)


def to_addresses(value: Iterable[Address | str], name: str) -> frozenset[Address]:
    """Return the set of some addresses, each of which is given as `to_address` takes it."""
    items = iterable(value, name, "a collection of addresses")
    return frozenset([to_address(item, f"{name}: each") for item in items])
