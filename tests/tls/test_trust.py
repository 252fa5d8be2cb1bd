"""The file of those who are trusted."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from tasksubmit.errors import ConfigurationError
from tasksubmit.tls.identity import make_key, pin_of
from tasksubmit.tls.trust import NOBODY, Trust, TrustedPeer, read_trust
from tests.tls.support import ALICE, BOB, CAROL

PINS = [pin_of(make_key().public_key()) for _ in range(3)]


class TrustCase(SynchronousTestCase):
    """Ways to write and read the file."""

    @override
    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def read(self, text: str, mode: int = 0o600) -> Trust:
        """What this file says."""
        self.path.write_bytes(text.encode())
        self.path.chmod(mode)
        return read_trust(self.path)

    def refused(self, text: str, *words: str, mode: int = 0o600) -> str:
        """Why this file is refused, in one line that names it."""
        error = str(self.assertRaises(ConfigurationError, self.read, text, mode))
        for word in (str(self.path), *words):
            self.assertIn(word, error)
        self.assertNotIn("\n", error)
        return error


class FileTests(TrustCase):
    """What is read."""

    def test_lines(self) -> None:
        """Each line is a peer; comments and empty lines are for people."""
        text = (
            f"# who\n\n  # indented\n{ALICE}   {PINS[0]},{PINS[1]}\ttcp:a:1 \n{BOB} ca,{PINS[2]}\n"
            "Carol.Example ca unix:/with a space\n"
        )
        trust = self.read(text)
        expected = [
            TrustedPeer(ALICE, (PINS[0], PINS[1]), "tcp:a:1"),
            TrustedPeer(BOB, ("ca", PINS[2]), ""),
            TrustedPeer("carol.example", ("ca",), "unix:/with a space"),
        ]
        self.assertEqual(list(trust.peers.values()), expected)
        self.assertEqual([trust.with_pin(pin) for pin in PINS], [expected[0], expected[0], expected[1]])
        self.assertEqual(trust.with_dns_name("a0000-0000-0002.tasksubmit.internal"), expected[1])
        self.assertEqual(trust.with_dns_name("carol.example"), expected[2])
        self.assertIsNone(trust.with_dns_name("a0000-0000-0001.tasksubmit.internal"))

    def test_removed(self) -> None:
        """A peer whose trust was removed is remembered, but is no peer."""
        trust = self.read(f"{ALICE} {PINS[0]}\n{BOB} removed\n00:0000.abcd.0001 removed tcp:c:1\n")
        self.assertEqual(list(trust.peers), [ALICE])
        self.assertEqual(trust.removed, {BOB, "0:0000.ABCD.0001"})
        for line in (f"{BOB} ca", f"{BOB} removed", f"{ALICE} removed"):
            self.refused(f"{ALICE} {PINS[0]}\n{BOB} removed\n{line}\n", ", line 3: ", "has a line already")

    def test_spelling(self) -> None:
        """An address is the same however it is spelled."""
        self.assertEqual(list(self.read(f"00:0000.abcd.0001 {PINS[0]}\n").peers), ["0:0000.ABCD.0001"])
        self.refused(f"0:0000.abcd.0001 {PINS[0]}\n0:0000.ABCD.0001 {PINS[1]}\n", ", line 2: ", "has a line already")

    def test_wrong(self) -> None:
        """A wrong line is named by its number, and nothing of the file is used."""
        for line, word in (
            (BOB, "expected NAME PROOF ENDPOINT"),
            (f"{BOB} sha256:abc tcp:b:1", "'sha256:abc' is neither a fingerprint"),
            (f"{BOB} {PINS[1]}=", "is neither a fingerprint"),
            (f"{BOB} {PINS[1].replace('sha256', 'sha512')}", "is neither a fingerprint"),
            (f"{BOB} {PINS[1][:-2]}{_other(PINS[1][-2])}=", "is neither a fingerprint"),  # bits beyond the digest
            (f"{BOB} tcp:b:1 {PINS[1]}", "'tcp:b:1' is neither a fingerprint"),
            (f"{BOB} {PINS[1]},{PINS[1]}", "the same proof twice"),
            (f"{BOB} {','.join(PINS)}", "would have 3 keys"),
            (f"{BOB} ,", "'' is neither"),
            (f"{BOB} removed,{PINS[1]}", "'removed' is neither"),
            ("../bob removed", "neither an address nor a host name"),
            (f"0:0000.0000.002 {PINS[1]}", "neither an address nor a host name"),
            (f"../bob {PINS[1]}", "neither an address nor a host name"),
            (f"{ALICE} {PINS[1]}", "has a line already"),
            (f"{BOB} {PINS[1]} tcp:\x1b[2J", "is not an endpoint"),
        ):
            with self.subTest(line=line):
                self.refused(f"# comment\n{ALICE} {PINS[0]}\n{line}\n", ", line 3: ", word)

    def test_one_key_two_peers(self) -> None:
        """A key belongs to one peer: else each could be the other."""
        self.refused(f"{ALICE} {PINS[0]}\n{BOB} {PINS[1]},{PINS[0]}\n", f"{ALICE} and {BOB} have the same key")

    def test_not_text(self) -> None:
        """What is not text is refused."""
        self.path.write_bytes(b"\xff\xfe")
        self.path.chmod(0o600)
        self.assertIn("not UTF-8", str(self.assertRaises(ConfigurationError, read_trust, self.path)))

    def test_mode(self) -> None:
        """Others may read who is trusted, but not decide it."""
        self.read(f"{ALICE} {PINS[0]}\n", mode=0o644)
        for mode in (0o620, 0o602):
            self.refused(f"{ALICE} {PINS[0]}\n", f"{mode:03o}", "decide who is trusted", "chmod 600", mode=mode)

    def test_missing(self) -> None:
        """A file that is not there is named."""
        error = self.assertRaises(ConfigurationError, read_trust, self.path)
        self.assertEqual(str(error), f"{self.path} cannot be read: No such file or directory")

    @given(st.text())
    def test_anything(self, text: str) -> None:
        """Any text is either refused in one line or read, and what was read is written and read back as it was."""
        path = Path(self.mktemp())
        path.write_bytes(text.encode("utf-8", "replace"))
        path.chmod(0o600)
        try:
            trust = read_trust(path)
        except ConfigurationError as error:
            self.assertEqual(len(str(error).splitlines()), 1)
        else:
            path.write_bytes(trust.to_bytes())
            self.assertEqual(read_trust(path), trust)


class ChangeTests(TrustCase):
    """What is changed."""

    def test_round_trip(self) -> None:
        """What is written reads as it was."""
        trust = NOBODY.with_proof(ALICE, PINS[0], "tcp:a:1").with_proof(BOB, "ca").with_proof(CAROL, PINS[1])
        for changed in (trust, trust.without(BOB).without(ALICE)):
            self.assertEqual(self.read(changed.to_bytes().decode()), changed)

    def test_rotation(self) -> None:
        """A peer may have two keys, then the old one goes; the endpoint stays unless it is given anew."""
        trust = NOBODY.with_proof(ALICE, PINS[0], "tcp:a:1").with_proof(ALICE, PINS[1])
        self.assertEqual(trust.peers[ALICE], TrustedPeer(ALICE, (PINS[0], PINS[1]), "tcp:a:1"))
        self.assertEqual(trust.with_proof(ALICE, PINS[0], "tcp:a:2").peers[ALICE].endpoint, "tcp:a:2")
        error = self.assertRaises(ConfigurationError, trust.with_proof, ALICE, PINS[2])
        self.assertIn(f"`tasksubmit trust remove {ALICE} {PINS[0]}`", str(error))
        trust = trust.without(ALICE, PINS[0])
        self.assertEqual(trust.peers[ALICE].proofs, (PINS[1],))
        self.assertIsNone(trust.with_pin(PINS[0]))
        for removed in (trust.without(ALICE, PINS[1]), trust.without(ALICE)):
            self.assertEqual(removed, Trust({}, frozenset({ALICE})))

    def test_trusted_again(self) -> None:
        """A peer that was removed is so until it is trusted again, then by the new proof alone."""
        trust = NOBODY.with_proof(ALICE, PINS[0], "tcp:a:1").without(ALICE).with_proof(BOB, PINS[2])
        self.assertEqual(trust.removed, {ALICE})
        self.assertIn(f"{ALICE} is not trusted", str(self.assertRaises(ConfigurationError, trust.without, ALICE)))
        trust = trust.with_proof(ALICE, PINS[1])
        self.assertEqual((trust.removed, trust.peers[ALICE]), (frozenset(), TrustedPeer(ALICE, (PINS[1],))))

    def test_wrong(self) -> None:
        """What is not there cannot be removed, and what is somebody else's key cannot be added."""
        trust = NOBODY.with_proof(ALICE, PINS[0])
        for words, change in (
            (f"{BOB} is not trusted", lambda: trust.without(BOB)),
            (f"is not trusted by {PINS[1]}, but by {PINS[0]}", lambda: trust.without(ALICE, PINS[1])),
            ("have the same key", lambda: trust.with_proof(BOB, PINS[0])),
            ("neither a fingerprint", lambda: trust.with_proof(BOB, "sha256:")),
            ("is not an endpoint", lambda: trust.with_proof(BOB, PINS[1], "tcp:b:1\n0:0000.0000.0009 ca")),
        ):
            self.assertIn(words, str(self.assertRaises(ConfigurationError, change)))


def _other(last: str) -> str:
    """The character that says the same 4 bits as the last one of a digest, and another 2 behind them."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return alphabet[alphabet.index(last) ^ 1]
