"""What an operator does to a node's keys and to whom it trusts, whether or not the node runs."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from tasksubmit.errors import ConfigurationError
from tasksubmit.permissions import refuse_writable
from tasksubmit.tls.files import (
    CERTIFICATE_FILE,
    KEY_FILE,
    NEXT_KEY_FILE,
    TRUST_FILE,
    is_there,
    move_file,
    replace_file,
)
from tasksubmit.tls.identity import (
    certificates_pem,
    claimed_address,
    how_to_renew,
    is_signed_by_itself,
    key_pem,
    make_certificate,
    make_key,
    pin_of,
    read_certificates,
    read_identity,
    read_key,
)
from tasksubmit.tls.trust import NOBODY, Trust, read_trust
from tasksubmit.wire.address import Address


def make_identity(directory: Path, address: Address, now: datetime, validity: timedelta) -> str:
    """Make a node its key and a certificate, and its directory if need be; gives the key's fingerprint.

    A key without a certificate is what remains when this is cut short: it gets one then.

    :raises ConfigurationError: it has one already, or they cannot be written.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        raise ConfigurationError(f"{directory} is not a directory; see --state-dir") from None
    except OSError as error:
        raise ConfigurationError(f"{directory} cannot be made: {error.strerror}") from None
    with _alone(directory):
        key_file, certificate_file = directory / KEY_FILE, directory / CERTIFICATE_FILE
        has_key = is_there(key_file)
        if is_there(certificate_file):
            if has_key:
                raise ConfigurationError(
                    f"{key_file} is there already, and peers may know that key: `tasksubmit renew` makes a new "
                    "certificate for it; to begin anew, move both away first"
                )
            raise ConfigurationError(
                f"{certificate_file} is there already, but not its key: put {KEY_FILE} back, or, to begin anew, move "
                "the certificate away first"
            )
        key = read_key(key_file) if has_key else make_key()
        if not has_key:
            replace_file(key_file, key_pem(key))
        certificate = make_certificate(key, str(address), now, validity)
        replace_file(certificate_file, certificates_pem([certificate]), 0o644)
    return pin_of(certificate)


def own_pins(directory: Path) -> tuple[Address | None, list[str]]:
    """Whose the certificate says it is, and the fingerprints of its key and of the next key, if there is one.

    :raises ConfigurationError: they cannot be read.
    """
    _expect_certificate(directory)
    identity = read_identity(directory / CERTIFICATE_FILE, directory / KEY_FILE)
    pins = [identity.pin]
    if is_there(directory / NEXT_KEY_FILE):
        pins.append(pin_of(read_key(directory / NEXT_KEY_FILE).public_key()))
    return claimed_address(identity.certificate), pins


def renew(directory: Path, now: datetime, validity: timedelta, *, switches_key: bool = False) -> str:
    """Make a new certificate for the same key, which peers need not know of, or for the next one.

    :returns: the fingerprint of its key.
    :raises ConfigurationError: a CA has signed the one that there is, there is no next key, or files cannot be used.
    """
    with _alone(directory):
        _expect_certificate(directory)
        old = read_certificates(directory / CERTIFICATE_FILE)[0]
        if not is_signed_by_itself(old):
            raise ConfigurationError(f"a CA has signed {directory / CERTIFICATE_FILE}: {how_to_renew(old)}")
        key_file = directory / (NEXT_KEY_FILE if switches_key else KEY_FILE)
        if switches_key and not is_there(key_file):
            raise ConfigurationError("there is no next key: `tasksubmit renew --next-key` makes one, for peers to add")
        key = read_key(key_file)
        certificate = make_certificate(key, _name_in(old), now, validity)
        # If this is cut short, the two do not fit, the node says so, and to renew is the way out.
        if switches_key:
            move_file(key_file, directory / KEY_FILE)
        replace_file(directory / CERTIFICATE_FILE, certificates_pem([certificate]), 0o644)
    return pin_of(certificate)


def make_next_key(directory: Path) -> str:
    """Make the key that is to follow the one in use, for peers to trust before it is used; gives its fingerprint.

    :raises ConfigurationError: there is one already, or it cannot be written.
    """
    with _alone(directory):
        _expect_certificate(directory)
        read_identity(directory / CERTIFICATE_FILE, directory / KEY_FILE)
        if is_there(directory / NEXT_KEY_FILE):
            raise ConfigurationError(
                "there is a next key already: `tasksubmit trust` prints it, and `tasksubmit renew --switch` uses it"
            )
        key = make_key()
        replace_file(directory / NEXT_KEY_FILE, key_pem(key))
    return pin_of(key.public_key())


def trusted(directory: Path) -> Trust:
    """Whom the node trusts.

    :raises ConfigurationError: its file cannot be read, or a line of it is wrong.
    """
    path = directory / TRUST_FILE
    return read_trust(path) if is_there(path) else NOBODY


def change_trust(directory: Path, change: Callable[[Trust], Trust]) -> Trust:
    """Change whom the node trusts, one change at a time; gives what it is then.

    :raises ConfigurationError: as ``change`` raises it, or the file cannot be read or written.
    """
    with _alone(directory):
        _expect_certificate(directory)
        before = trusted(directory)
        after = change(before)
        if after != before:
            replace_file(directory / TRUST_FILE, after.to_bytes())
        return after


def _expect_certificate(directory: Path) -> None:
    """Tell how to make what is not there."""
    if is_there(directory / CERTIFICATE_FILE):
        return
    if is_there(directory / KEY_FILE):
        raise ConfigurationError(
            f"{directory / CERTIFICATE_FILE} is not there: `tasksubmit init` makes one for the key that is"
        )
    raise ConfigurationError(f"{directory} has no key of the node's own yet: `tasksubmit init` makes one")


def _name_in(certificate: x509.Certificate) -> str:
    address = claimed_address(certificate)
    if address is None:
        raise ConfigurationError("the certificate does not say which address it is for; make another as it was made")
    return str(address)


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Keep out other commands that change these files; the node itself only reads them.

    :raises ConfigurationError: the directory cannot be read, or others can write it.
    """
    refuse_writable(directory)
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError as error:
        raise ConfigurationError(f"{directory}: {error.strerror}; is it the state directory? See --state-dir") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
