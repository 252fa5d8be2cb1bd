"""StrictModes: a file that another account can change is refused, as OpenSSH refuses its own.

Accounts that can write a directory can replace the files in it: remove the keys, so that the node goes on without TLS,
or listen in the place of the control socket. So a path is trusted only if all of it is: the file, the directories above
it, and the links that lead there.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
import sys
from pathlib import Path
from shlex import quote

from tasksubmit.errors import ConfigurationError

_ACL = "system.posix_acl_access"


def refuse_writable(path: Path) -> None:
    """Refuse a file or a directory that accounts other than this user's and root's can change or replace.

    Of the directories above it, those that are sticky, such as ``/tmp``, are accepted: there nobody can rename what
    belongs to another account. What does not exist is skipped. Root may use what belongs to the account that a node is
    to run as.

    :raises ConfigurationError: naming what others can write, and what to do.
    """
    written, real = Path(os.path.abspath(path)), Path(os.path.realpath(path))
    user = os.geteuid()
    for place in dict.fromkeys([written, real, *written.parents, *real.parents]):
        try:
            owners, status = {os.lstat(place).st_uid}, os.stat(place)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise ConfigurationError(f"{place} cannot be looked at: {error.strerror}") from None
        if user and (strangers := {*owners, status.st_uid} - {user, 0}):
            raise ConfigurationError(
                f"{place} belongs to another user ({min(strangers)}), who decides what is in it: have root do "
                f"`chown {user} {quote(str(place))}`, or choose another place"
            )
        is_kept = place not in (written, real) and status.st_mode & stat.S_ISVTX
        if not is_kept and _others_write(place, status):
            raise ConfigurationError(
                f"{place} has the mode {stat.S_IMODE(status.st_mode):03o}: other users can write it, and so decide "
                f"what is in it; do `chmod go-w {quote(str(place))}`"
            )


def _others_write(place: Path, status: os.stat_result) -> bool:
    if stat.S_ISCHR(status.st_mode):
        return False  # such as /dev/null: what is written to a device is not its content
    if status.st_mode & stat.S_IWOTH:
        return True
    return bool(status.st_mode & stat.S_IWGRP) and (_has_acl(place) or _has_others(status))


def _has_acl(place: Path) -> bool:
    """True if the bits of the group say what accounts in an access control list may do at most."""
    if sys.platform != "linux":
        return False
    try:
        return _ACL in os.listxattr(place)
    except OSError:  # a file system without them
        return False


def _has_others(status: os.stat_result) -> bool:
    """True if others than the owner are in the group of a file.

    Where each user has a group of their own, a umask of 002 makes directories that this group can write.
    """
    try:
        names = set(grp.getgrgid(status.st_gid).gr_mem)
    except KeyError:
        return False  # no account has this group: it was given to this process alone, as Kubernetes' fsGroup is
    accounts = pwd.getpwall()
    members = {account.pw_uid for account in accounts if account.pw_gid == status.st_gid or account.pw_name in names}
    is_known = names <= {account.pw_name for account in accounts}
    # A group without members is one of programs that any user can start.
    return not members or not is_known or not members <= {0, os.geteuid(), status.st_uid}
