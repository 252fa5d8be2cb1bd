"""Keys and certificates: made, renewed, kept from others."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from tasksubmit.errors import ConfigurationError
from tasksubmit.tls import files, keeping
from tasksubmit.tls.identity import (
    Identity,
    certificates_pem,
    claimed_address,
    dns_name,
    is_pin,
    key_pem,
    make_certificate,
    make_key,
    pin_of,
    read_identity,
)
from tasksubmit.tls.trust import NOBODY
from tasksubmit.wire.address import Address
from tests.tls.support import ALICE, BOB, DAY, Authority

NOW = datetime(2026, 11, 24, 12, tzinfo=timezone.utc)
OWN = Address.parse("1:0001.00AB.0005")


class NameTests(SynchronousTestCase):
    """What things are called."""

    def test_pin(self) -> None:
        """A pin is the SHA-256 of the public key as it stands in certificates, in base64."""
        key = make_key()
        encodings = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        digest = hashlib.sha256(key.public_key().public_bytes(*encodings)).digest()
        self.assertEqual(pin_of(key.public_key()), "sha256:" + base64.b64encode(digest).decode())
        self.assertEqual(pin_of(make_certificate(key, ALICE, NOW)), pin_of(key.public_key()))
        self.assertTrue(is_pin(pin_of(key.public_key())))

    def test_dns_name(self) -> None:
        """The name that a CA has to sign is made from the address, and leads back to it."""
        self.assertEqual(dns_name("1:0001.0000.0005"), "a0001-0000-0005.tasksubmit.internal")
        self.assertEqual(dns_name("Bob.Example"), "bob.example")
        self.assertEqual(claimed_address(make_certificate(make_key(), str(OWN), NOW)), OWN)
        self.assertIsNone(claimed_address(make_certificate(make_key(), "bob.example", NOW)))


class KeepingTests(SynchronousTestCase):
    """What an operator does to the files of a node."""

    @override
    def setUp(self) -> None:
        self.directory = Path(self.mktemp()) / "state"
        self.certificate, self.key = (self.directory / name for name in (files.CERTIFICATE_FILE, files.KEY_FILE))

    def init(self) -> str:
        """Make a key."""
        return keeping.make_identity(self.directory, OWN, NOW, 90 * DAY)

    def read(self) -> Identity:
        """What the node shows."""
        return read_identity(self.certificate, self.key)

    def refused(self, call: Callable[..., object], *arguments: object, **options: object) -> str:
        """Why something cannot be done, in one line."""
        error = str(self.assertRaises(ConfigurationError, call, *arguments, **options))
        self.assertNotIn("\n", error)
        return error

    def test_init(self) -> None:
        """A new key is the owner's alone; its certificate is good from a day before, for clocks that are slow."""
        pin = self.init()
        self.assertEqual([path.stat().st_mode & 0o777 for path in (self.key, self.directory)], [0o600, 0o700])
        identity = self.read()
        self.assertEqual((identity.pin, identity.expires_at), (pin, NOW + 90 * DAY))
        self.assertEqual(identity.certificate.not_valid_before_utc, NOW - DAY)
        self.assertEqual(keeping.own_pins(self.directory), (OWN, [pin]))
        self.assertEqual(sorted(os.listdir(self.directory)), [files.CERTIFICATE_FILE, files.KEY_FILE])

    def test_never_overwritten(self) -> None:
        """A second key is not made, also when only half of the first is left."""
        pin = self.init()
        before = self.key.read_bytes()
        self.assertIn("`tasksubmit renew`", self.refused(self.init))
        self.certificate.unlink()
        self.assertIn("`tasksubmit init`", self.refused(keeping.renew, self.directory, NOW, DAY))
        self.assertEqual(self.init(), pin)
        self.assertEqual(self.key.read_bytes(), before)
        self.read()
        self.key.unlink()
        error = self.refused(self.init)
        self.assertIn(str(self.certificate), error)
        self.assertNotIn("renew", error)

    def test_link_to_nowhere(self) -> None:
        """A key on a disk that is not there at the moment counts as one: it is not replaced, nor done without."""
        self.directory.mkdir(parents=True)
        self.key.symlink_to("/nowhere/key.pem")
        self.assertIn(str(self.key), self.refused(self.init))
        self.assertTrue(self.key.is_symlink())
        self.assertTrue(files.is_set_up(self.directory))

    def test_not_to_be_seen(self) -> None:
        """Where nobody can see whether there are keys it is not taken that there are none."""
        self.init()

        def forbidden(path: object) -> None:
            raise PermissionError(13, "Permission denied")

        self.patch(os, "lstat", forbidden)
        self.assertIn(
            f"{self.key} cannot be looked for: Permission denied", self.refused(files.is_set_up, self.directory)
        )

    def test_no_file(self) -> None:
        """A pipe or a device is not read: that might never end."""
        for path in (Path(os.devnull), Path(self.mktemp())):
            if not path.exists():
                os.mkfifo(path)
            error = self.refused(files.read_guarded, path, 0, "")
            self.assertIn(f"{path} cannot be read: it is not a file", error)

    def test_no_place(self) -> None:
        """What is no directory cannot be a state directory, and is told as that."""
        self.directory.parent.mkdir(parents=True)
        self.directory.touch()
        self.assertIn("is not a directory", self.refused(self.init))

    def test_guarded(self) -> None:
        """A key that others can read, or write, is refused, by whatever bit."""
        self.init()
        for mode in (0o640, 0o604, 0o620, 0o602, 0o601):
            self.key.chmod(mode)
            self.assertIn(f"{self.key} has the mode {mode:03o}: others may read", self.refused(self.read))
        self.key.chmod(0o400)
        self.read()

    def test_owner(self) -> None:
        """What another user put there is refused; root reads what belongs to the user that the node runs as."""
        self.init()
        if os.geteuid() == 0:
            os.chown(self.key, 4711, -1)
        owner = self.key.stat().st_uid
        self.patch(os, "geteuid", lambda: owner + 1)
        self.assertIn(f"{self.key} belongs to another user ({owner})", self.refused(self.read))
        for reader in (owner, 0):
            self.patch(os, "geteuid", lambda reader=reader: reader)
            self.read()

    def test_broken(self) -> None:
        """Files that are no keys and no certificates, or do not belong together, are named."""
        self.init()
        for path, content, words in (
            (self.key, b"", "is not a private key in PEM without a password (it is empty)"),
            (self.key, b"\xff\x00", "(nothing in it is PEM)"),
            (self.key, certificates_pem([make_certificate(make_key(), ALICE, NOW)]), "(it holds a certificate: "),
            (self.key, _encrypted(), "(it has a password: `openssl pkey`"),
            (self.key, _ed25519(), "of a kind that is not used here"),
            (self.key, key_pem(ec.generate_private_key(ec.SECP256K1())), "of a kind that is not used here"),
            (self.key, key_pem(rsa.generate_private_key(65537, 1024)), "is an RSA key of 1024 bits"),
            (self.key, key_pem(make_key()), "is not the certificate of the key"),
            (self.certificate, b"", "does not hold certificates"),
            (self.certificate, key_pem(make_key()), "(it holds a private key: "),
            (self.certificate, b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", "does not hold"),
        ):
            with self.subTest(words=words, path=path):
                before = path.read_bytes()
                path.write_bytes(content)
                self.assertIn(words, self.refused(self.read))
                path.write_bytes(before)
        self.key.unlink()
        self.assertIn("key.pem cannot be read: No such file", self.refused(self.read))

    def test_renew(self) -> None:
        """A renewed certificate has the same key and a new end, and nothing is left behind."""
        pin = self.init()
        self.assertEqual(keeping.renew(self.directory, NOW + 80 * DAY, 30 * DAY), pin)
        self.assertEqual((self.read().pin, self.read().expires_at), (pin, NOW + 110 * DAY))
        self.assertEqual(claimed_address(self.read().certificate), OWN)
        self.assertEqual(sorted(os.listdir(self.directory)), [files.CERTIFICATE_FILE, files.KEY_FILE])

    def test_rotation(self) -> None:
        """The next key is told before it is used; a switch that is cut short in the middle is ended by a renewal."""
        pin = self.init()
        self.assertIn("there is no next key", self.refused(keeping.renew, self.directory, NOW, DAY, switches_key=True))
        next_pin = keeping.make_next_key(self.directory)
        self.assertIn("there is a next key already", self.refused(keeping.make_next_key, self.directory))
        self.assertEqual(keeping.own_pins(self.directory), (OWN, [pin, next_pin]))
        self.assertEqual(self.read().pin, pin)
        self.assertEqual((self.directory / files.NEXT_KEY_FILE).stat().st_mode & 0o777, 0o600)
        self.assertEqual(keeping.renew(self.directory, NOW, DAY, switches_key=True), next_pin)
        self.assertEqual(keeping.own_pins(self.directory), (OWN, [next_pin]))
        last_pin = keeping.make_next_key(self.directory)
        self.patch(keeping, "replace_file", lambda *_: self.fail("the power is lost"))
        self.assertRaises(self.failureException, keeping.renew, self.directory, NOW, DAY, switches_key=True)
        self.patch(keeping, "replace_file", files.replace_file)
        self.assertIn("renew it", self.refused(self.read))
        self.assertEqual(keeping.renew(self.directory, NOW, DAY), last_pin)
        self.assertEqual(keeping.own_pins(self.directory), (OWN, [last_pin]))

    def test_link(self) -> None:
        """A link in the place of the next key stays one: its content, which root can read, is not given away."""
        self.init()
        theirs = Path(self.mktemp())
        files.replace_file(theirs, key_pem(make_key()))
        (self.directory / files.NEXT_KEY_FILE).symlink_to(theirs.absolute())
        keeping.renew(self.directory, NOW, DAY, switches_key=True)
        self.assertTrue(self.key.is_symlink())
        in_the_way = self.directory / files.NEXT_KEY_FILE
        in_the_way.mkdir()
        self.assertIn("cannot be moved", self.refused(files.move_file, self.certificate, in_the_way))

    def test_of_a_ca(self) -> None:
        """What a CA has signed is for the CA to renew."""
        self.init()
        signed = Authority().sign(self.read().key, dns_name(str(OWN)))
        self.certificate.write_bytes(certificates_pem([signed]))
        self.assertIn("a CA has signed", self.refused(keeping.renew, self.directory, NOW, DAY))
        warning = self.read().expiry_warning(self.read().expires_at - DAY)
        self.assertIn("in 1 days: have the CA sign another", warning)

    def test_expiry(self) -> None:
        """Nothing is said of the end while it is over 30 days away, then what to do."""
        self.init()
        warning = self.read().expiry_warning
        self.assertEqual(warning(NOW + 59 * DAY), "")
        words = "the certificate expires on 2027-02-22 12:00 UTC, in 10 days: run `tasksubmit renew`"
        self.assertEqual(warning(NOW + 80 * DAY), words)
        self.assertIn("expired on 2027-02-22 12:00 UTC, and peers refuse it", warning(NOW + 90 * DAY))
        self.assertIn("expired", warning(NOW + 91 * DAY))

    def test_trust(self) -> None:
        """Changes of whom the node trusts are kept; one that is refused, or changes nothing, writes nothing."""
        self.init()
        path = self.directory / files.TRUST_FILE
        pin = pin_of(make_key().public_key())
        self.assertEqual(keeping.trusted(self.directory), NOBODY)
        after = keeping.change_trust(self.directory, lambda trust: trust.with_proof(BOB, pin, "tcp:b:1"))
        self.assertEqual(keeping.trusted(self.directory), after)
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        written = path.stat().st_ino
        keeping.change_trust(self.directory, lambda trust: trust.with_proof(BOB, pin))
        self.refused(keeping.change_trust, self.directory, lambda trust: trust.without(ALICE))
        self.assertEqual(path.stat().st_ino, written)

    def test_no_directory(self) -> None:
        """A directory that is not there is named, with the option that says another."""
        self.assertIn("--state-dir", self.refused(keeping.change_trust, self.directory, lambda trust: trust))
        self.directory.mkdir(parents=True)
        self.assertIn("`tasksubmit init`", self.refused(keeping.change_trust, self.directory, lambda trust: trust))
        self.assertEqual(os.listdir(self.directory), [])

    def test_no_room(self) -> None:
        """A file that cannot be written leaves the old one, and nothing besides."""
        self.init()
        before = self.certificate.read_bytes()

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        self.patch(os, "fsync", full)
        self.assertIn("No space left", self.refused(keeping.renew, self.directory, NOW, timedelta(days=1)))
        self.assertEqual(self.certificate.read_bytes(), before)
        self.assertEqual(sorted(os.listdir(self.directory)), [files.CERTIFICATE_FILE, files.KEY_FILE])


def _encrypted() -> bytes:
    return make_key().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )


def _ed25519() -> bytes:
    return ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
