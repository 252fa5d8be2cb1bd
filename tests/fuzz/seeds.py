"""What each target is fed first: lawful input, for the fuzzers to spoil."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tasksubmit.testing.contracts.samples import OWN, PEER
from tasksubmit.wire.frames import Frame
from tests.fuzz.targets import MESSAGES, trusted
from tests.protocol.support import encoded, request, results, update

VECTORS = Path(__file__).resolve().parents[1] / "vectors"

CONFIG = b"""\
address = "0:0000.0000.0001"
listen = ["tcp:11003:interface=127.0.0.1", "unix:/run/t.sock"]
insecure = true
accept-timeout = 2.5
max_result_bytes = 1000000
log_format = "json"
[peer]
"0:0000.0000.0002" = "tcp:h:1"
"""

_REQUESTS = (
    b"GET /v1/tasks?limit=3&side=received HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b'POST /v1/tasks HTTP/1.1\r\nHost: h\r\nContent-Length: 44\r\n\r\n{"to": "0:0000.0000.0002", "description": "w"}',
    b"POST /v1/tasks/a%20b/accept HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"GET /v1/tasks/t1/wait?for=finished&timeout=0&peer=0:0000.0000.0002 HTTP/1.1\r\nExpect: 100-continue\r\n\r\n",
)


def _payloads(name: str) -> list[bytes]:
    rows = json.loads((VECTORS / name).read_text())
    return [json.dumps(row).encode() for row in (rows if isinstance(rows, list) else list(rows.values()))][:50]


def seeds() -> Mapping[str, list[bytes]]:
    """The seeds of each target by its name."""
    submission = encoded(request(), update(), results())
    ours = request().to_json().replace(b"1:0001.0000.0001", str(PEER).encode())
    lawful = Frame(1, ours.replace(b"1:0001.0000.0002", str(OWN).encode())).encode()
    payloads = [request().to_json(), update().to_json(), results().to_json()]
    return {
        "frames": [b"\x01\x02\x03\x04" + submission, b"\xff\x00\x07\x09" + submission[:100]],
        "messages": [bytes([kind]) + payload for kind in range(len(MESSAGES)) for payload in payloads],
        "jsontext": [*payloads, b'{"a":[1,-2.5e3,true,null,"\\ud83d\\ude00"],"b":{"c":""}}', *_payloads("decode.json")],
        "taskfile": _payloads("taskfile.json"),
        "addresses": [b"0:0000.0000.0001", b"65535:FFFF.FFFF.FFFF"],
        "times": [b"2026-04-09T12:00:00Z", b"0001-01-01T00:00:00.123456789+23:59"],
        "filenames": ["résumé final.pdf".encode(), b"../../x.txt", b"a\nb.md", b"CON.txt"],
        "configuration": [CONFIG],
        "options": [b"--listen\0tcp:1:interface=::1\0--peer\x000:0000.0000.0002=unix:/x\0--tick\x001", b"--check"],
        "endpoints": [b"tcp:1:interface=127.0.0.1", b"tls:h:1:certificate=x:endpoint=unix\\:/x", b"unix:/x:mode=600"],
        "executors": [b"process:cat -n:timeout=60", b"manual", b"python:m\\:f"],
        "server": [submission, lawful, lawful * 3, Frame(1, b"{").encode() * 20],
        "http": list(_REQUESTS),
        "trust": [trusted()[1].to_bytes(), b"0:0000.0000.0001 ca tcp:h:1\n# nobody\n\n"],
        "certificates": [trusted()[0]],
        # The last made SQLite quote what is no text any more.
        "state": [bytes(range(7)), bytes(range(100, 170)), bytes.fromhex("7a017effff004f")],
    }
