"""Addresses as text and as values."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.errors import InvalidAddress
from tasksubmit.wire.address import Address, SocketAddress
from tests.tiers import examples
from tests.wire.vectors import Row, check_rows, rows

ADDRESSES = st.builds(Address, st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1))


class GoldenTests(SynchronousTestCase):
    """Parity with the reference."""

    def value_of(self, row: Row) -> Address | SocketAddress:
        """Make the value of a row."""
        address = Address(row["network"], row["node"])
        return SocketAddress(address, row["port"]) if row["form"] == "socket" else address

    def test_parse(self) -> None:
        """Each text of the vectors is read, or refused, as the reference does."""

        def check(row: Row) -> None:
            parse = SocketAddress.parse if row["form"] == "socket" else Address.parse
            if row["ok"]:
                self.assertEqual(parse(row["text"]), self.value_of(row))
                self.assertEqual(str(parse(row["text"])), row["canonical"])
            else:
                self.assertRaises(InvalidAddress, parse, row["text"])

        check_rows(self, rows("addresses", op="parse"), check)

    def test_format(self) -> None:
        """Each value of the vectors prints as the reference prints it."""
        check_rows(
            self,
            [{**row, "case": row["op"]} for row in rows("addresses", op="format")],
            lambda row: self.assertEqual(str(self.value_of(row)), row["text"]),
        )


class AddressTests(SynchronousTestCase):
    """Address values."""

    @settings(deadline=None, max_examples=examples(100))
    @given(ADDRESSES, st.integers(0, 2**16 - 1))
    def test_round_trip(self, address: Address, port: int) -> None:
        """Every address, with and without a port, reads back from its text."""
        self.assertEqual(Address.parse(str(address)), address)
        self.assertEqual(SocketAddress.parse(f"{address}:{port}"), SocketAddress(address, port))

    @settings(deadline=None, max_examples=examples(200))
    @given(st.text("0123456789abcdefABCDEF:.+- \n\u0661", max_size=24) | st.text(max_size=20))
    def test_noise(self, text: str) -> None:
        """Any text is read or refused with the named error."""
        for parse in (Address.parse, SocketAddress.parse):
            with contextlib.suppress(InvalidAddress):
                parse(text)

    def test_leading_zeros(self) -> None:
        """Any number of zeros in front of the network and of the port is read, in little time, and none is printed."""
        for network in (0, 1, 65535):
            plain = Address(network, 0xF2910004)
            for zeros in (1, 5, 10, 4300, 1_000_000):
                text = f"{'0' * zeros}{plain}"
                self.assertEqual(str(Address.parse(text)), str(plain))
                self.assertEqual(SocketAddress.parse(f"{text}:{'0' * zeros}1003"), SocketAddress(plain, 1003))
        for text in (":0000.0000.0001", "0" * 9, "0" * 5000 + "x:0000.0000.0001", "0" * 99 + "655351:FFFF.0000.0001"):
            self.assertRaises(InvalidAddress, Address.parse, text)
        error = self.assertRaises(InvalidAddress, Address.parse, "0" * 5000 + "7:0008.0000.0001")
        self.assertLess(len(str(error)), 200)

    def test_out_of_range(self) -> None:
        """A network, a node or a port out of its range makes no value."""
        for network, node in ((-1, 0), (2**16, 0), (0, -1), (0, 2**32)):
            self.assertRaises(InvalidAddress, Address, network, node)
        for port in (-1, 2**16):
            self.assertRaises(InvalidAddress, SocketAddress, Address(0, 0), port)

    def test_hash_and_order(self) -> None:
        """Equal addresses are one key of a dict; others are ordered by network, then node."""
        lower, higher = Address.parse("2:0002.FFFF.FFFF"), Address.parse("10:000a.0000.0000")
        self.assertEqual({lower: 1}[Address.parse("02:0002.ffff.ffff")], 1)
        self.assertEqual(sorted([higher, lower]), [lower, higher])
