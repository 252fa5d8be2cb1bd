"""Contracts: the tests that any implementation of one of the package's interfaces has to pass.

Each is a mixin: inherit from it first, then from a test case, and say how to make what is to be tested.
"""

from tasksubmit.testing.contracts.executors import ExecutorContract
from tasksubmit.testing.contracts.policies import AcceptanceContract, AdmissionContract
from tasksubmit.testing.contracts.scores import ScoreBookContract
from tasksubmit.testing.contracts.stores import StoreContract

__all__ = ["AcceptanceContract", "AdmissionContract", "ExecutorContract", "ScoreBookContract", "StoreContract"]
