"""What every task store does."""

from __future__ import annotations

from tasksubmit.testing.contracts.store_changes import ChangeContract
from tasksubmit.testing.contracts.store_deliveries import DeliveryContract
from tasksubmit.testing.contracts.store_ledger import LedgerContract
from tasksubmit.testing.contracts.store_records import RecordContract
from tasksubmit.testing.contracts.store_retention import RetentionContract
from tasksubmit.testing.contracts.store_times import TimeContract


class StoreContract(RecordContract, ChangeContract, LedgerContract, DeliveryContract, TimeContract, RetentionContract):
    """The behaviours of `ITaskStore`. Say in ``make_store``, and if need be in ``make_again``, what is tested."""
