"""Which files may be sent as results, and what they are called on disk (wire.md, section 5)."""

from __future__ import annotations

from os.path import splitext

from tasksubmit.errors import InvalidMessage

ALLOWED_RESULT_EXTENSIONS = frozenset(
    {
        *(".md", ".txt", ".rtf", ".docx", ".pdf", ".pptx"),
        *(".pth", ".pt", ".onnx", ".h5", ".pb", ".ckpt", ".safetensors", ".bin"),
        *(".csv", ".parquet", ".xlsx", ".xls"),
        *(".jpg", ".jpeg", ".png", ".svg", ".gif", ".webp"),
    }
)
"""The extensions that may be sent; they compare in lower case (wire.md, section 5)."""

FORBIDDEN_RESULT_EXTENSIONS = frozenset(
    {
        *(".go", ".py", ".js", ".ts", ".java", ".c", ".cpp", ".h", ".hpp", ".rs", ".rb", ".php"),
        *(".swift", ".kt", ".scala", ".sh", ".bash", ".zsh", ".ps1", ".bat", ".cmd", ".sql"),
        *(".r", ".R", ".lua", ".pl", ".pm", ".ex", ".exs", ".clj", ".hs", ".ml", ".fs", ".cs", ".vb", ".dart"),
    }
)
"""The extensions of source code, refused by name. What is in neither list is refused too (wire.md, section 5)."""

MAX_FILENAME = 200
"""The longest name of a result file, in bytes of UTF-8."""

MAX_DISK_NAME = 230
"""The longest name of a result on disk before it is numbered, in bytes: file systems allow 255."""


TEXT_RESULT = "result.txt"
"""What a text result is called on disk (wire.md, section 5)."""


def check_result_filename(name: str) -> None:
    """Refuse a file name that is not a plain base name, or whose extension may not be sent.

    :raises InvalidMessage: of the field ``filename``; the text says what is wrong with it.
    """
    fault = _fault_of_name(name) or _fault_of_extension(name)
    if fault:
        raise InvalidMessage(f"the file name {name[:80]!r} {fault}", "filename")


def _fault_of_name(name: str) -> str:
    if not name:
        return "is empty"
    if "/" in name or "\\" in name:
        return "is not a plain base name: it has a slash"
    if name.startswith("."):
        return "starts with a dot"
    if name != name.strip():
        return "starts or ends with a blank"
    # Besides control characters this leaves out line separators, invisible marks that reverse the direction of
    # writing, and half surrogate pairs, so that the name can be shown and encoded.
    if not name.isprintable():
        return "has characters that cannot be printed"
    if len(name.encode("utf-8")) > MAX_FILENAME:
        return f"is over {MAX_FILENAME} bytes long"
    return ""


def _fault_of_extension(name: str) -> str:
    extension = splitext(name)[1].lower()
    if extension in ALLOWED_RESULT_EXTENSIONS:
        return ""
    if extension in FORBIDDEN_RESULT_EXTENSIONS:
        return f"is that of source code, which may not be sent as a result ({extension})"
    if len(extension) > 1:
        return f"has an extension that may not be sent; allowed are {' '.join(sorted(ALLOWED_RESULT_EXTENSIONS))}"
    return "has no extension, which must tell what kind of file it is"


def disk_name(task_id: str, filename: str) -> str:
    """Give the name under which a result is kept.

    :param task_id: of the task, valid.
    :param filename: one that `check_result_filename` lets through.
    :returns: ``<task_id>_<filename>``, the end of its stem cut off where it would be over `MAX_DISK_NAME` bytes long.
    """
    stem, extension = splitext(no_option(f"{task_id}_{filename}"))
    room = MAX_DISK_NAME - len(extension.encode("utf-8"))
    # A character that the cut would go through is dropped.
    return stem.encode("utf-8")[:room].decode("utf-8", "ignore") + extension


def plain_disk_name(task_id: str, filename: str) -> str:
    """Give the name under which a result is kept where the disk does not accept its own: ``<task_id>.<ext>``."""
    return no_option(task_id + splitext(filename)[1].lower())


def no_option(name: str) -> str:
    """Give a file name that no program takes for an option: one that begins with a dash gets an underscore before it.

    Peers choose ids and file names, and a shell hands all names of a directory to a program with ``*``.
    """
    return f"_{name}" if name.startswith("-") else name


def numbered(name: str, n: int) -> str:
    """Give another name for a file whose own is taken.

    :param name: a file name, for example ``report.pdf``.
    :param n: 2 for the second file of that name, and so on.
    :returns: for example ``report-2.pdf``.
    """
    stem, extension = splitext(name)
    return f"{stem}-{n}{extension}"
