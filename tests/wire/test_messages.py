"""Messages to payloads and back: the golden vectors, and what no vector can list."""

from __future__ import annotations

import base64
import inspect
import json
import sys
from typing import Any, cast

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.errors import InvalidMessage, MalformedMessage
from tasksubmit.lifecycle.table import TaskStatus
from tasksubmit.wire.frames import Frame, FrameType
from tasksubmit.wire.jsontext import MAX_DEPTH, MAX_NUMBER
from tasksubmit.wire.messages import (
    ACK,
    PERSISTENT,
    ResponseStatus,
    SubmitRequest,
    SubmitResponse,
    TaskResult,
    TaskResultMessage,
    TaskStatusUpdate,
)
from tasksubmit.wire.records import Message
from tests.tiers import examples
from tests.wire.vectors import KINDS, Row, check_rows, rows

MESSAGES = list(KINDS.values())

ACCEPTED_LENIENCY = {"null_value", "base64_loose_bits", "other_frame_type", "integer_read_as_double", "deep_nesting"}
"""The sloppiness of the vectors that is read as the reference reads it; the rest is refused."""


def fields_of(row: Row) -> dict[str, Any]:
    """Give the fields of a row as the message class takes them."""
    return {
        key: base64.b64decode(value) if key == "file_data" else value for key, value in row.get("fields", {}).items()
    }


def as_doubles(value: object) -> object:
    """Turn every number inside a result into a double, as the reference reads them."""
    if isinstance(value, bool) or not isinstance(value, (int, float, list, dict)):
        return value
    if isinstance(value, dict):
        return {key: as_doubles(member) for key, member in value.items()}
    return [as_doubles(item) for item in value] if isinstance(value, list) else float(value)


def read_fields(message: Message) -> dict[str, object]:
    """Give the fields of a message by their JSON names, numbers inside the result as doubles."""
    fields = attrs.asdict(cast(Any, message), recurse=False)
    return {key: as_doubles(value) if key == "result" else value for key, value in fields.items()}


def depth_of(value: object) -> int:
    """Count arrays of which each holds only the next, the innermost empty."""
    depth = 0
    while isinstance(value, list):
        depth += 1
        value = value[0] if value else None
    return depth


class GoldenTests(SynchronousTestCase):
    """Parity with the reference."""

    def test_encode(self) -> None:
        """Each message of the vectors is written byte for byte as the reference writes it."""

        def check(row: Row) -> None:
            message = KINDS[row["kind"]](**fields_of(row))
            self.assertEqual(message.to_frame().encode().hex(), row["frame_hex"])

        check_rows(self, rows("frames"), check)

    def test_encoded_reads_back(self) -> None:
        """What the reference writes reads back as the fields that it was made of."""

        def check(row: Row) -> None:
            kind = KINDS[row["kind"]]
            written = bytes.fromhex(row["frame_hex"])
            frame = Frame(int.from_bytes(written[:4], "big"), written[8:])
            self.assertEqual(read_fields(kind.from_frame(frame)), read_fields(kind(**fields_of(row))))

        check_rows(self, rows("frames"), check)

    def test_decode(self) -> None:
        """What is plainly valid reads as the reference reads it."""
        check_rows(self, rows("decode", ok=True, lenient=[]), self.check_read)

    def test_refused(self) -> None:
        """What the reference refuses is refused."""
        check_rows(self, rows("decode", ok=False), self.check_refused)

    def test_lenient(self) -> None:
        """Sloppy input is read as the reference reads it, or refused, and the same kind of it always the same way."""

        def check(row: Row) -> None:
            (self.check_read if ACCEPTED_LENIENCY.issuperset(row["lenient"]) else self.check_refused)(row)

        check_rows(self, [row for row in rows("decode", ok=True) if row["lenient"]], check)

    def check_read(self, row: Row) -> None:
        """Check that a row is read as it says."""
        message = KINDS[row["kind"]].from_frame(Frame(row["frame_type"], bytes.fromhex(row["payload_hex"])))
        if "result_depth" in row:
            assert isinstance(message, TaskResult)
            self.assertEqual(depth_of(message.result), row["result_depth"])
            message = attrs.evolve(message, result=None)
        ours = read_fields(message)
        expected = {key: as_doubles(value) if key == "result" else value for key, value in fields_of(row).items()}
        self.assertEqual({key: ours[key] for key in expected}, expected)
        additions = {key: value for key, value in ours.items() if key not in expected and value}
        self.assertEqual(additions, {})

    def check_refused(self, row: Row) -> None:
        """Check that a row is refused."""
        frame = Frame(row["frame_type"], bytes.fromhex(row["payload_hex"]))
        self.assertRaises(MalformedMessage, KINDS[row["kind"]].from_frame, frame)


# --- any message --------------------------------------------------------------------------------------------------

INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | TEXT | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)
BY_ANNOTATION: dict[str, st.SearchStrategy[Any]] = {
    "str": TEXT,
    "int": INT64,
    "bool": st.booleans(),
    "bytes": st.binary(max_size=40),
    "tuple[str, ...]": st.lists(TEXT, max_size=3).map(tuple),
    "object": JSON_VALUES,
}


def any_message(kind: type[Message]) -> st.SearchStrategy[Message]:
    """Give a strategy that makes messages of one class, with any content that its fields can hold."""
    names = {attribute.name: str(attribute.type) for attribute in attrs.fields(cast(Any, kind))}
    return st.builds(kind, **{name: BY_ANNOTATION[annotation] for name, annotation in names.items()})


class AnyMessageTests(SynchronousTestCase):
    """What holds for every message."""

    @settings(deadline=None, max_examples=examples(150))
    @given(st.sampled_from(MESSAGES).flatmap(any_message))
    def test_round_trip(self, message: Message) -> None:
        """Whatever a message holds, writing and reading it gives the same message."""
        self.assertEqual(read_fields(type(message).from_frame(message.to_frame())), read_fields(message))

    @settings(deadline=None, max_examples=examples(50))
    @given(st.integers(1 - 10 ** (MAX_NUMBER - 1), 10**MAX_NUMBER - 1))
    def test_exact_integers(self, number: int) -> None:
        """An integer in a result arrives exactly, however many digits a double would keep of it."""
        self.assertEqual(TaskResult.from_json(TaskResult(result=number).to_json()).result, number)

    @settings(deadline=None, max_examples=examples(100))
    @given(st.sampled_from(MESSAGES).flatmap(any_message))
    def test_standard_json(self, message: Message) -> None:
        """Whatever a message holds, an ordinary JSON reader reads it, and finds no character that HTML minds."""
        document = message.to_json()
        self.assertIsInstance(json.loads(document), dict)
        self.assertNotRegex(document.decode(), "[<>&\u2028\u2029]")

    @settings(deadline=None, max_examples=examples(300))
    @given(st.sampled_from(MESSAGES), st.binary(max_size=60))
    def test_noise(self, kind: type[Message], noise: bytes) -> None:
        """Any bytes are read as a message or refused with the named error."""
        self.check_named(kind, noise)

    @settings(deadline=None, max_examples=examples(300))
    @given(
        st.sampled_from(MESSAGES).flatmap(any_message),
        st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=3)), min_size=1, max_size=3),
    )
    def test_mutations(self, message: Message, changes: list[tuple[int, bytes]]) -> None:
        """A message that was damaged on its way is read as a message or refused with the named error."""
        document = message.to_json()
        for position, inserted in changes:
            document = document[:position] + inserted + document[position + 1 :]
        self.check_named(type(message), document)

    @settings(deadline=None, max_examples=examples(200))
    @given(
        st.sampled_from(MESSAGES),
        st.dictionaries(st.sampled_from(["task_id", "status", "result", "ack", "features", "file_data"]), JSON_VALUES),
    )
    def test_wrong_types(self, kind: type[Message], members: dict[str, object]) -> None:
        """Values of any JSON type are read or refused with the named error, which names the field."""
        try:
            kind.from_json(json.dumps(members).encode())
        except MalformedMessage as error:
            self.assertIn(error.field, members)

    def check_named(self, kind: type[Message], document: bytes) -> None:
        """Check that a document is read, and then can be written, or is refused."""
        try:
            message = kind.from_json(document)
        except MalformedMessage:
            return
        self.assertEqual(read_fields(kind.from_json(message.to_json())), read_fields(message))


# --- what the vectors leave out -----------------------------------------------------------------------------------


class DecodeTests(SynchronousTestCase):
    """How the decoder reads what deployed peers never write."""

    def refused(self, document: str | bytes, field: str = "", kind: type[Message] = TaskResult) -> None:
        """Check that a document is refused, and which field is named."""
        payload = document.encode() if isinstance(document, str) else document
        self.assertEqual(self.assertRaises(MalformedMessage, kind.from_json, payload).field, field)

    def test_deep_nesting_is_read(self) -> None:
        """Ten thousand levels are read, one more is refused, wherever it stands and however many there are."""
        for key in ("result", "unknown"):
            for opening, closing in (("[", "]"), ('{"a":', "}"), (' [ 1 , "[" , ', " ] "), ('{"}":[0,', "]}")):
                inner = "1" if opening != "[" else ""
                most = MAX_DEPTH // 2 - 1 if "{" in opening and "[" in opening else MAX_DEPTH - 1
                for levels in (99, 100, 200, 500, most):
                    fine = f'{{"{key}":' + opening * levels + inner + closing * levels + "}"
                    result = TaskResult.from_json(fine.encode()).result
                    if key == "result" and opening == "[":
                        self.assertEqual(depth_of(result), levels)
                for levels in (most + 1, 100_000):
                    self.refused(f'{{"{key}":' + opening * levels + inner + closing * levels + "}")

    def test_deep_documents_have_fewer_values(self) -> None:
        """A document that is nested deeply, which is read slowly, may not have as many values as others."""
        deep = "[" * 9000 + "]" * 9000
        for count, is_read in ((4, True), (5, False)):
            document = f'{{"unknown":[{",".join([deep] * count)}]}}'
            if is_read:
                TaskResult.from_json(document.encode())
            else:
                self.refused(document)

    def test_deep_nesting_reads_like_shallow(self) -> None:
        """What is wrong in the depth is refused, and what is right reads as elsewhere."""
        opening, closing = "[" * 300, "]" * 300
        right = (' { "a" : [ 1 , -2.5e3 , "\\u00e4\\"]" , null , { } , [ ] ] , "b" : [ [ ] ] } ', "1", '"[["', "[]")
        for text in right:
            result: object = TaskResult.from_json(f'{{"result":{opening}{text}{closing}}}'.encode()).result
            for _ in range(300):
                assert isinstance(result, list)
                [result] = result
            self.assertEqual(result, json.loads(text))
        objects = ('{"a"}', '{"a":}', '{"a":1,}', "{a:1}", '{"a":1]', "{,}", '{"a":1 "b":2}')
        scalars = ("NaN", "1e999", '"\\ud800"', "nul", '"', "1 2", '"\n"', "9" * 301)
        for text in (",", "1,", "}", *objects, *scalars):
            self.refused(f'{{"result":{opening}{text}{closing}}}')
        self.refused(f'{{"result":{opening}{{"a":1,"b":2,"b":3}}{closing}}}', "b")
        self.refused(f'{{"result":{opening}{closing[1:]}}}')
        self.refused(f'{{"result":{opening}{closing}]}}')
        self.refused(f'{{"result":{opening}{closing}}} 1')

    def test_deep_nesting_is_read_by_deep_callers(self) -> None:
        """A caller that has used up nearly all of its own depth reads and writes deep values as any other."""
        document = b'{"result":' + b"[" * 600 + b"]" * 600 + b"}"
        shallow = b'{"result":' + b"[" * 90 + b"]" * 90 + b"}"

        def call(depth: int) -> TaskResult:
            return call(depth - 1) if depth else TaskResult.from_json(document)

        def call_shallow(depth: int) -> bytes:
            return call_shallow(depth - 1) if depth else TaskResult.from_json(shallow).to_json()

        left = sys.getrecursionlimit() - len(inspect.stack(0)) - 30
        message = call(left)
        self.assertEqual(depth_of(message.result), 600)
        self.assertIn(shallow[1:-1], call_shallow(left))
        self.assertIn(document[1:-1], message.to_json())

    def test_wide_is_not_deep(self) -> None:
        """Many brackets side by side, or inside strings, are no levels."""
        document = json.dumps({"task_description": "[" * 1000, "result": [[]] * 1000}).encode()
        self.assertEqual(TaskResult.from_json(document).result, [[]] * 1000)

    def test_long_numbers(self) -> None:
        """A number of 300 characters is read, a longer one refused, in a place that is ignored, too."""
        self.assertEqual(TaskResult.from_json(b'{"result":' + b"9" * MAX_NUMBER + b"}").result, 10**MAX_NUMBER - 1)
        for key in ("result", "unknown"):
            self.refused(f'{{"{key}":{"9" * (MAX_NUMBER + 1)}}}')
            self.refused(f'{{"{key}":0.{"3" * MAX_NUMBER}}}')
            self.refused(f'{{"{key}":{"9" * 1_000_000}}}')

    def test_numbers_too_large(self) -> None:
        """A number beyond the doubles is refused."""
        for number in ("1e309", "-1e309", "1e99999999999"):
            self.refused(f'{{"result":[{number}]}}')

    def test_duplicate_inside_result(self) -> None:
        """A key that comes twice is refused inside values, too, and named."""
        self.refused('{"result":{"a":1,"b":{"c":1,"c":1}}}', "c")

    def test_surrogates(self) -> None:
        """Half a surrogate pair is refused in keys, values and values that are ignored; a whole one is read."""
        for half in ("\\ud800", "\\uDfff", "\\udc00\\ud800", "\\ud800\\\\udc00"):
            for document in (f'{{"error":"{half}"}}', f'{{"result":{{"{half}":1}}}}', f'{{"x":["{half}"]}}'):
                self.refused(document)
        self.assertEqual(TaskResult.from_json(b'{"error":"\\ud83d\\ude00\\\\ud800"}').error, "\U0001f600\\ud800")

    def test_key_in_another_case(self) -> None:
        """A key that deployed peers would take for a known one is refused, and the known one named."""
        self.refused('{"Ack":true}', "ack", TaskStatusUpdate)
        self.refused('{"tas\u212a_id":"x"}', "task_id", TaskStatusUpdate)
        self.refused('{"\u017ftatus":"x"}', "status", TaskStatusUpdate)

    def test_null(self) -> None:
        """Null in place of a value reads as the zero value, of the added fields, too."""
        document = b'{"task_id":null,"features":null,"reward":null}'
        self.assertEqual(SubmitResponse.from_json(document), SubmitResponse())
        self.refused('{"features":[null]}', "features", SubmitRequest)
        self.refused("null")

    def test_added_fields(self) -> None:
        """The fields that we add are refused when they have the wrong type."""
        self.refused('{"features":"ack"}', "features", SubmitRequest)
        self.refused('{"features":["ack",1]}', "features", SubmitRequest)
        self.refused('{"ack":1}', "ack", TaskStatusUpdate)
        self.refused('{"retry_after_s":1.5}', "retry_after_s", SubmitResponse)
        self.refused('{"reward":true}', "reward", SubmitResponse)

    def test_base64(self) -> None:
        """Base64 that is cut, broken, badly padded or in the URL alphabet is refused."""
        for encoded in ("A", "AA", "AAA", "A===", "=", "====", "AA=A", "AA==AAAA", "-_-_", "AAA\\n", "\u00c3AAA"):
            self.refused(f'{{"file_data":"{encoded}"}}', "file_data", TaskResultMessage)

    @settings(deadline=None, max_examples=examples(200))
    @given(st.text("AB+/=-\n \u00c3", max_size=12))
    def test_base64_strict(self, encoded: str) -> None:
        """What is read as base64 is, but for loose bits, the encoding of what it reads as."""
        document = json.dumps({"file_data": encoded}).encode()
        try:
            content = TaskResultMessage.from_json(document).file_data
        except MalformedMessage:
            return
        canonical = base64.b64encode(content).decode()
        self.assertEqual(len(encoded), len(canonical))
        self.assertEqual(encoded.count("="), canonical.count("="))
        self.assertEqual(encoded[: len(content) // 3 * 4], canonical[: len(content) // 3 * 4])

    def test_wrong_frame_type(self) -> None:
        """A message is read from a frame of its own type only, but a response from any."""
        self.assertRaises(MalformedMessage, SubmitRequest.from_frame, Frame(FrameType.RESULT, b"{}"))
        self.assertRaises(MalformedMessage, TaskStatusUpdate.from_frame, Frame(99, b"{}"))
        self.assertEqual(SubmitResponse.from_frame(Frame(99, b"{}")), SubmitResponse())


class EncodeTests(SynchronousTestCase):
    """What is written, and what cannot be."""

    def test_additions(self) -> None:
        """The fields that we add follow those of the protocol."""
        request = SubmitRequest("t", "d", "f", "o", (PERSISTENT, ACK), True, "2026-01-01T00:00:00Z")
        self.assertEqual(
            request.to_json(),
            b'{"task_id":"t","task_description":"d","from_addr":"f","to_addr":"o",'
            b'"features":["persistent","ack"],"query":true,"expires_at":"2026-01-01T00:00:00Z"}',
        )
        response = SubmitResponse(
            "t",
            ResponseStatus.REJECTED,
            "m",
            features=(ACK,),
            code="quota",
            retry_after_s=5,
            current_status="NEW",
            outcome="failed",
            error="e",
            justification="j",
            reward=2,
        )
        self.assertEqual(
            response.to_json(),
            b'{"task_id":"t","status":400,"message":"m","features":["ack"],"code":"quota","retry_after_s":5,'
            b'"current_status":"NEW","outcome":"failed","error":"e","justification":"j","reward":2}',
        )
        update = TaskStatusUpdate("t", TaskStatus.CANCELLED, "j", ack=True, outcome="failed", error="e", from_addr="f")
        self.assertEqual(
            update.to_json(),
            b'{"task_id":"t","status":"CANCELLED","justification":"j","ack":true,"outcome":"failed","error":"e",'
            b'"from_addr":"f"}',
        )
        results = TaskResultMessage("t", "text", "r", ack=True, from_addr="f")
        self.assertEqual(
            results.to_json(),
            b'{"task_id":"t","result_type":"text","result_text":"r","completed_at":"","ack":true,"from_addr":"f"}',
        )

    def test_unwritable(self) -> None:
        """A value that JSON or the protocol cannot hold is refused, and its field named."""
        circle: list[object] = []
        circle.append(circle)
        results = (
            float("nan"),
            float("-inf"),
            {1: 2},
            b"bytes",
            [object()],
            10**MAX_NUMBER,
            -(10 ** (MAX_NUMBER - 1)),
            circle,
        )
        for message, field in (
            *((TaskResult(result=result), "result") for result in results),
            (SubmitResponse(status=2**63), "status"),
            (TaskResultMessage(time_cpu_ms=-(2**63) - 1), "time_cpu_ms"),
        ):
            self.assertEqual(self.assertRaises(InvalidMessage, message.to_frame).field, field)
        self.assertRaises(InvalidMessage, SubmitRequest("\ud800").to_frame)

    def test_deepest_result(self) -> None:
        """The deepest result that is written is read back, and one level more is not written."""
        result: object = []
        for _ in range(MAX_DEPTH - 2):
            result = [result]
        message = TaskResult(result=result)
        self.assertEqual(depth_of(TaskResult.from_json(message.to_json()).result), MAX_DEPTH - 1)
        self.assertRaises(InvalidMessage, TaskResult(result=[result]).to_json)

    def test_tuples(self) -> None:
        """A tuple in a result is written as an array."""
        self.assertIn(b'"result":[1,[2]]', TaskResult(result=(1, (2,))).to_json())
