"""Reasons why a peer refuses the own certificate, as far as its TLS alert and the certificate itself show them.

An alert is one of a dozen words, and OpenSSL sends the same one for different faults. The side that owns the
certificate can tell most of them apart by a look at it, so that its operator changes what is wrong on the right side.
"""

from __future__ import annotations

from datetime import datetime

from cryptography import x509

from tasksubmit.tls.files import CERTIFICATE_FILE
from tasksubmit.tls.identity import Identity, dns_name, dns_names, how_to_renew, is_signed_by_itself

_SIGN_ANOTHER = "have the CA sign another, put it in its place, and run `tasksubmit reload`"


def fault_of(own: Identity, alert: str, now: datetime, own_name: str = "") -> str:
    """Return what is wrong with a certificate that a peer refused, and what to do.

    :param alert: the words of OpenSSL for the alert that the peer sent.
    :param now: the time by the own clock; an aware datetime.
    :param own_name: the address or the host name that the certificate should be for; empty if unknown.
    """
    for certificate in (own.certificate, *own.chain):
        which = "it" if certificate is own.certificate else f"the certificate of {_name(certificate.subject)} behind it"
        if certificate.not_valid_after_utc <= now:
            return f"{which} has expired, on {_day(certificate.not_valid_after_utc)}: {how_to_renew(own.certificate)}"
        if certificate.not_valid_before_utc > now:
            return (
                f"{which} is not valid yet, but from {_day(certificate.not_valid_before_utc)} on: set the clock right, "
                f"or {how_to_renew(own.certificate)}"
            )
    if "expired" in alert:
        way_out = f"compare the clocks, or {how_to_renew(own.certificate)}"
        return f"it has expired there, and ends here on {_day(own.expires_at)}: {way_out}"
    if "bad certificate" in alert:
        return (
            f"it is not valid yet there, but from {_day(own.certificate.not_valid_before_utc)} on, or it is damaged: "
            f"compare the clocks of both machines, then {how_to_renew(own.certificate)}"
        )
    if "unsupported certificate" in alert:
        return f"its extended key usage has to name clients and servers alike: {_SIGN_ANOTHER}"
    if is_signed_by_itself(own.certificate):
        return "its operator has to trust it (`tasksubmit trust`)"
    if "unknown ca" in alert:
        issuer = _name((own.certificate, *own.chain)[-1].issuer)
        return (
            f"the CA there did not sign it, nor what comes with it: put the certificate of {issuer}, if that is one "
            f"between, into {CERTIFICATE_FILE} behind the own one, or have the right CA sign it"
        )
    names = dns_names(own.certificate)
    right = dns_name(own_name) if own_name else ""
    if names == [right]:
        return "its operator has to trust it (`tasksubmit trust`)"
    what = f"for {right} alone" if right else "for the own address alone"
    return f"it is for {', '.join(names)[:100] or 'no name'}: have the CA sign one {what}, and run `tasksubmit reload`"


def _day(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M UTC}"


def _name(name: x509.Name) -> str:
    return repr(name.rfc4514_string()[:100])
