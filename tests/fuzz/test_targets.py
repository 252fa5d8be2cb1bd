"""Every target with hypothesis: bytes of any kind, and lawful input that was spoilt."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.fuzz.seeds import seeds
from tests.fuzz.targets import TARGETS
from tests.tiers import examples

EXAMPLES = {"http": 50, "server": 50, "state": 5, "options": 20}
"""How many for each target, where that is not the usual number: these take longer."""

USUAL_EXAMPLES = 100


@st.composite
def spoilt(draw: st.DrawFn, lawful: list[bytes]) -> bytes:
    """Lawful input of which pieces are replaced, left out, doubled, or cut off."""
    content = bytearray(draw(st.sampled_from(lawful)))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(content)))
        end = draw(st.integers(start, min(start + 16, len(content))))
        what = draw(st.sampled_from(("replace", "double", "drop", "cut")))
        if what == "cut":
            del content[start:]
        else:
            piece = content[start:end] * 2 if what == "double" else draw(st.binary(max_size=8))
            content[start:end] = b"" if what == "drop" else piece
    return bytes(content)


class TargetTests(SynchronousTestCase):
    """No target finds anything."""

    def fuzz(self, name: str) -> None:
        """A target and its seeds."""

        @settings(
            deadline=None,
            max_examples=examples(EXAMPLES.get(name, USUAL_EXAMPLES)),
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )
        @given(st.one_of(spoilt(seeds()[name]), spoilt(seeds()[name]), st.binary(max_size=300)))
        def run(data: bytes) -> None:
            TARGETS[name](data)

        for seed in seeds()[name]:
            TARGETS[name](seed)
        run()

    def test_all_have_seeds(self) -> None:
        """Each target has seeds and a test."""
        self.assertEqual(set(seeds()), set(TARGETS))
        for name in TARGETS:
            self.assertTrue(hasattr(self, f"test_{name}"), name)

    def test_frames(self) -> None:
        """Streams of frames, cut anywhere."""
        self.fuzz("frames")

    def test_messages(self) -> None:
        """Payloads of each message."""
        self.fuzz("messages")

    def test_jsontext(self) -> None:
        """JSON."""
        self.fuzz("jsontext")

    def test_taskfile(self) -> None:
        """Task files."""
        self.fuzz("taskfile")

    def test_addresses(self) -> None:
        """Addresses."""
        self.fuzz("addresses")

    def test_times(self) -> None:
        """Times."""
        self.fuzz("times")

    def test_filenames(self) -> None:
        """Names of result files."""
        self.fuzz("filenames")

    def test_configuration(self) -> None:
        """Configuration files."""
        self.fuzz("configuration")

    def test_options(self) -> None:
        """Options of the command line."""
        self.fuzz("options")

    def test_endpoints(self) -> None:
        """Texts of endpoints."""
        self.fuzz("endpoints")

    def test_executors(self) -> None:
        """Texts of executors."""
        self.fuzz("executors")

    def test_server(self) -> None:
        """What peers send to a node."""
        self.fuzz("server")

    def test_http(self) -> None:
        """Requests to the control API."""
        self.fuzz("http")

    def test_state(self) -> None:
        """A state directory with other bytes in it."""
        self.fuzz("state")

    def test_trust(self) -> None:
        """The file of those who are trusted."""
        self.fuzz("trust")

    def test_certificates(self) -> None:
        """Certificates, as a stranger may show them."""
        self.fuzz("certificates")
