"""Result files on this side of the socket: read to be sent, and saved where the user wants them."""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path

from tasksubmit.cli.control import CommandFailed, Json
from tasksubmit.lifecycle.results import TEXT_RESULT, check_result_filename, disk_name, no_option
from tasksubmit.wire.frames import MAX_FRAME


def read_result_file(path: Path) -> bytes:
    """The content of a file that is to be sent.

    :raises CommandFailed: when it cannot be read, or is larger than any frame.
    """
    if path.exists() and not path.is_file():
        raise CommandFailed("invalid", f"{path} is not a regular file")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FRAME + 1)
    except OSError as error:
        raise CommandFailed("invalid", f"{path} cannot be read: {error.strerror}") from error
    if len(content) > MAX_FRAME:
        raise CommandFailed(
            "too_large", f"{path} is too long: just under 12 MiB fit into a frame", "send less, or a reference to it"
        )
    return content


def result_content(result: Json) -> bytes:
    """The content of a result of the control API; of a text, its UTF-8."""
    return b64decode(result["content_base64"]) if result["text"] is None else bytes(result["text"], "utf-8")


def save_result(result: Json, output: Path) -> Json:
    """Save a result of the control API as the file `output`, or in the directory `output`.

    The peer's own name for a file is used in a directory only, and only if it is a plain name; one that begins with a
    dash gets an underscore before it. Nothing is overwritten.

    :returns: ``task_id``, ``result_type``, ``path`` and ``size_bytes``.
    :raises CommandFailed: when it cannot be saved.
    """
    content = result_content(result)
    path = output
    if output.is_dir():
        name = result["filename"] or disk_name(result["task_id"], TEXT_RESULT)
        check_result_filename(name)
        path = output / no_option(name)
    try:
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError:
        raise CommandFailed("exists", "the file exists already", "choose another --output", quote=str(path)) from None
    except OSError as error:
        raise CommandFailed(
            "invalid", f"the file cannot be written ({error.strerror})", "choose another --output", quote=str(path)
        ) from error
    return {
        "task_id": result["task_id"],
        "result_type": result["result_type"],
        "path": str(path),
        "size_bytes": len(content),
    }
