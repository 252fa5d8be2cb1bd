r"""An agent that summarises what it is sent.

    python summarise.py --address 0:0000.0000.0002 --port 11004 --state-dir b \
        --peer 0:0000.0000.0001=tcp:127.0.0.1:11003

Whoever is a peer may submit a text; it is accepted, its first sentences are the results, and the submitter hears
meanwhile how far the work is. Stop it with Ctrl-C or SIGTERM: what it has begun is begun again after its next start.
"""

import argparse
import re
import time
from collections import Counter
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.internet.task import deferLater

from tasksubmit import (
    AcceptAll,
    Address,
    CallableExecutor,
    Execution,
    ExecutionFailed,
    Node,
    SQLiteTaskStore,
    StaticPeers,
)

SENTENCES = 2


async def summarise(execution: Execution) -> str:
    """The sentences with the words that occur most often, in their order."""
    sentences = re.findall(r"[^.!?]+[.!?]", execution.description)
    if not sentences:
        raise ExecutionFailed("there is not a single sentence in the text")
    frequencies = Counter(re.findall(r"\w{4,}", execution.description.lower()))
    weights: list[tuple[float, int]] = []
    for number, sentence in enumerate(sentences):
        words = re.findall(r"\w{4,}", sentence.lower())
        weights.append((sum(frequencies[word] for word in words) / (len(words) or 1), number))
        execution.progress(f"{number + 1} of {len(sentences)} sentences read")
        await deferLater(reactor, 0)  # a long text does not hold up the rest of the program
    best = sorted(number for _, number in sorted(weights, reverse=True)[:SENTENCES])
    return " ".join(sentences[number].strip() for number in best)


def main() -> None:
    """Run the agent until it is told to stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", type=Address.parse, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--peer", required=True, help="ADDRESS=ENDPOINT of who may submit")
    options = parser.parse_args()
    peer, _, endpoint = options.peer.partition("=")

    node = Node(
        options.address,
        SQLiteTaskStore(options.state_dir, reactor),
        StaticPeers({Address.parse(peer): clientFromString(reactor, endpoint)}),
        clock=reactor,
        wall=time.time,
        listen={"tasks": serverFromString(reactor, f"tcp:{options.port}:interface=127.0.0.1")},
        acceptance=AcceptAll(),
        executor=CallableExecutor(summarise),
        concurrency=4,
    )
    node.startService()
    reactor.addSystemEventTrigger("before", "shutdown", node.stopService)
    reactor.run()


if __name__ == "__main__":
    main()
