"""The verbs for keys and trust: they change files, and have a node that runs read them at once."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import wraps
from typing import Any

import click

from tasksubmit.cli import output
from tasksubmit.cli.control import CommandFailed, Json, NodeUnreachable
from tasksubmit.cli.parameters import Duration
from tasksubmit.cli.quoting import clean
from tasksubmit.cli.session import Session

_days = click.option(
    "--days",
    type=Duration(timedelta(days=1), timedelta(days=36500), unit="d"),
    default=timedelta(days=730),
    show_default="730",
    help="Validity of the certificate: a number of days, or a duration such as 12w.",
)


def _offline(show: Callable[[Any], None]) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Make a command of a function that is given the session and needs no node, and whose answer `show` prints."""

    def decorate(function: Callable[..., Any]) -> Callable[..., None]:
        @click.pass_obj
        @wraps(function)
        def command(session: Session, /, **arguments: Any) -> None:
            with session.errors_told():
                session.tell(function(session, **arguments), show)

        return command

    return decorate


_EFFECTS = {
    "now": "the running node has taken it up",
    "at_start": "no node runs here, and it holds from the start on",
    "at_restart": "the running node was started without keys, and has to be started again",
}
"""From when on a change holds."""


def _reload(session: Session) -> str:
    """Have the node read its files again, if it runs; gives one of `_EFFECTS`.

    :raises CommandFailed: it runs, and cannot, or cannot be told.
    """
    from tasksubmit.stores.disk import is_locked
    from tasksubmit.stores.sqlite import LOCK
    from tasksubmit.tls.keeping import own_pins

    try:
        status = session.ask(lambda control: control.reload())
    except NodeUnreachable as error:
        if not is_locked(session.directory() / LOCK):
            return "at_start"
        hint = "run `tasksubmit reload` with the node's --control, or send it SIGHUP"
        message = f"the change is written, but the running node was not told: {error}"
        raise CommandFailed(error.code, message, hint, error.exit_code) from error
    own, _ = own_pins(session.directory())
    if own is not None and str(own) != status["address"]:
        message = f"the change is written, but what answers at {session.where()} is another node, {status['address']}"
        raise CommandFailed("invalid", message, f"run `tasksubmit reload` with the --control of {own}")
    return "at_restart" if status["certificate"] is None else "now"


def _now() -> datetime:
    return datetime.fromtimestamp(time.time(), timezone.utc)


# --- one's own key ----------------------------------------------------------------------------------------------------


def _show_line(own: Json) -> None:
    click.echo(own["line"])


def _own(session: Session, endpoint: str = "tcp:HOST:PORT") -> Json:
    """What peers have to know of this node, and what their operators run for that."""
    from tasksubmit.tls.keeping import own_pins

    address, pins = own_pins(session.directory())
    shown = str(address) if address is not None else "ADDRESS"
    line = f"tasksubmit trust add {shown} {','.join(pins)} {shlex.quote(endpoint)}"
    return {"address": None if address is None else shown, "fingerprints": pins, "line": line}


def _show_made(own: Json) -> None:
    click.echo(f"made a key and a certificate for {own['address']}; {_EFFECTS[own['effect']]}")
    click.echo("peers trust them when their operators run this, with the place where this node listens:")
    click.echo(f"  $ {own['line']}")


@click.command()
@click.option("--address", required=True, help="The node's own address, such as 0:0000.0000.0001.")
@_days
@_offline(_show_made)
def init(session: Session, address: str, days: timedelta) -> Json:
    """Make a key and a self-signed certificate for the node.

    A node with keys uses TLS from its next start on. The files are kept in the state directory, and nothing there
    is overwritten.
    """
    from tasksubmit.stores.disk import is_locked
    from tasksubmit.stores.sqlite import LOCK
    from tasksubmit.tls.keeping import make_identity
    from tasksubmit.wire.address import Address

    make_identity(session.directory(), Address.parse(address), _now(), days)
    effect = "at_restart" if is_locked(session.directory() / LOCK) else "at_start"
    return {**_own(session), "effect": effect}


def _show_renewed(renewed: Json) -> None:
    if renewed["is_next"]:
        click.echo(f"made the next key, {renewed['fingerprint']}; peers add it, beside the one in use, with")
        click.echo(f"  $ {renewed['line']}")
        click.echo(f"when all have, `{output.own_command('renew --switch')}` begins to use it")
        return
    click.echo(f"made a new certificate, for the key {renewed['fingerprint']}; {_EFFECTS[renewed['effect']]}")


@click.command()
@click.option("--next-key", "makes_key", is_flag=True, help="Make another key, for peers to add before it is used.")
@click.option("--switch", "switches_key", is_flag=True, help="Begin to use that key.")
@_days
@_offline(_show_renewed)
def renew(session: Session, makes_key: bool, switches_key: bool, days: timedelta) -> Json:
    """Make a new certificate for the key of the node.

    Peers need not know of it. To change the key itself, make the next one with --next-key, have peers add it,
    then --switch to it.
    """
    from tasksubmit.tls import keeping

    if makes_key and switches_key:
        raise click.UsageError("give either --next-key or --switch")
    directory = session.directory()
    if makes_key:
        pin = keeping.make_next_key(directory)
        return {"fingerprint": pin, "is_next": True, "effect": "", "line": _own(session)["line"]}
    pin = keeping.renew(directory, _now(), days, switches_key=switches_key)
    return {"fingerprint": pin, "is_next": False, "effect": _reload(session), "line": _own(session)["line"]}


# --- whom to trust ----------------------------------------------------------------------------------------------------


def _peer(peer: Any) -> Json:
    return {"address": peer.name, "proofs": list(peer.proofs), "endpoint": peer.endpoint}


def _show_change(change: Json) -> None:
    peer, address = change["peer"], change["address"]
    if peer is None:
        what = f"{address} is not trusted any more"
    else:
        where = f", and reached at {peer['endpoint']}" if peer["endpoint"] else ""
        what = f"{address} is trusted by {' and by '.join(peer['proofs'])}{where}"
    click.echo(clean(f"{what}; {_EFFECTS[change['effect']]}"))
    if change.get("lacks_ca"):
        reload = output.own_command("reload")
        click.echo(f"no CA is known yet: put its certificate into the state directory as ca.pem, and `{reload}`")


@click.group(invoke_without_command=True)
@click.option("--endpoint", default="tcp:HOST:PORT", help="Where peers reach this node, for what it prints.")
@click.pass_context
def trust(context: click.Context, endpoint: str) -> None:
    """Trust peers, and print what makes them trust this node.

    Without a verb it prints the command that the operators of peers have to run.

    A peer is trusted by the fingerprint of its key (sha256:...), or by the word of the CA in ca.pem (ca).
    """
    session: Session = context.obj
    if context.invoked_subcommand is None:
        with session.errors_told():
            session.tell(_own(session, endpoint), _show_line)


@trust.command("add")
@click.argument("address")
@click.argument("proof")
@click.argument("endpoint", required=False, default="")
@_offline(_show_change)
def add(session: Session, address: str, proof: str, endpoint: str) -> Json:
    """Trust the peer ADDRESS, known by its key PROOF.

    PROOF is the fingerprint of the key, and ENDPOINT is where the peer is reached. A second key may be added
    while the peer changes its own; two with a comma between add both.
    """
    from tasksubmit.tls.files import CA_FILE, is_there
    from tasksubmit.tls.keeping import change_trust
    from tasksubmit.tls.trust import CA
    from tasksubmit.wire.address import Address

    name = str(Address.parse(address))
    if endpoint:
        _check_endpoint(endpoint)
    _check_not_own(session, name, proof.split(","))

    def add_all(trust: Any) -> Any:
        for one in proof.split(","):
            trust = trust.with_proof(name, one, endpoint)
        return trust

    peer = _peer(change_trust(session.directory(), add_all).peers[name])
    lacks_ca = CA in peer["proofs"] and not is_there(session.directory() / CA_FILE)
    return {"address": name, "peer": peer, "effect": _reload(session), "lacks_ca": lacks_ca}


@trust.command("remove")
@click.argument("address")
@click.argument("proof", required=False, default="")
@_offline(_show_change)
def remove(session: Session, address: str, proof: str) -> Json:
    """Trust the peer ADDRESS no longer, or no longer by PROOF.

    Its open connections are closed.
    """
    from tasksubmit.tls.identity import canonical_name
    from tasksubmit.tls.keeping import change_trust

    name = canonical_name(address)
    left = change_trust(session.directory(), lambda trust: trust.without(name, proof)).peers.get(name)
    return {"address": name, "peer": _peer(left) if left else None, "effect": _reload(session)}


def _show_trust(peers: list[Json]) -> None:
    rows = [(peer["address"], proof, peer["endpoint"]) for peer in peers for proof in peer["proofs"]]
    output.print_table(("ADDRESS", "PROOF", "ENDPOINT"), rows, "nobody is trusted")


@trust.command("list")
@_offline(_show_trust)
def list_trusted(session: Session) -> list[Json]:
    """List the trusted peers."""
    from tasksubmit.tls.keeping import trusted

    return [_peer(peer) for peer in trusted(session.directory()).peers.values()]


def _check_not_own(session: Session, name: str, proofs: list[str]) -> None:
    """Refuse the node's own key as another's: its line was run where it was printed."""
    from tasksubmit.errors import ConfigurationError
    from tasksubmit.tls.keeping import own_pins

    try:
        own, pins = own_pins(session.directory())
    except ConfigurationError:  # trust can be changed all the same
        return
    if own is not None and str(own) != name and (shared := set(pins).intersection(proofs)):
        raise ConfigurationError(
            f"{shared.pop()} is the key of this node itself, {own}: have {name} print its own with `tasksubmit trust`"
        )


def _check_endpoint(text: str) -> None:
    from twisted.internet.endpoints import clientFromString
    from twisted.internet.testing import MemoryReactorClock

    from tasksubmit.errors import ConfigurationError
    from tasksubmit.protocol.strings import check_client_type

    try:
        check_client_type(text)
        clientFromString(MemoryReactorClock(), text)
    except Exception as error:  # parsers are plugins, and raise what they like
        raise ConfigurationError(f"{text} is not an endpoint that Twisted understands: {error}") from None
