"""What a process keeps of the registry is as good as what it would read: any change, by whomever, is seen at once."""

import pytest

from ingest.adapters.postgres.connection import connect
from ingest.adapters.postgres.keyring import Keyring
from ingest.core.device import Sender
from tests.adapters.contract import DEVICES, Postgres, Said, envelope, record, take, weigh

pytestmark = pytest.mark.real

CHANGES = {
    "keys of a device moved": "update store.device_state set key_version = key_version + 1 where device_no = 2",
    "a key revoked": "update store.device_key set state = 'retired', seq_cutoff = 5, cutoff_epoch = 7 "
    "where device_no = 2",
    "a key added": "insert into store.device_key (device_no, kid, algorithm, public_key) "
    "select 2, 'n', 'EdDSA', public_key from store.device_key where device_no = 2",
    "a key gone": "delete from store.device_key where device_no = 2",
    "a vehicle sold": "update store.vehicle set tenant_no = tenant_no",
    "a unit in another vehicle": "update store.device set vehicle_no = 1 where device_no = 2",
}


async def ring(keys: Keyring, database: str, *devices: str) -> dict[str, Sender]:
    connection = await connect(database, "test")
    try:
        return (await keys.read(connection, [envelope(Said(1, device=one), record(0)) for one in devices])).senders
    finally:
        await connection.close()


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_of_the_registry_is_seen_by_the_next_reading(
    postgres: Postgres, store_database: str, change: str
) -> None:
    keys = Keyring()
    before = await ring(keys, store_database, *DEVICES)
    await postgres.fetch(CHANGES[change])
    after = await ring(keys, store_database, *DEVICES)
    assert after == await ring(Keyring(), store_database, *DEVICES)
    assert all(after[one] is not before[one] for one in after)


async def test_what_is_known_is_not_read_again_while_batches_come_and_go(
    postgres: Postgres, store_database: str
) -> None:
    keys = Keyring()
    before = await ring(keys, store_database, *DEVICES)
    async with take(postgres) as lease:
        await weigh(lease, Said(1), Said(1, content="b"), Said(2), Said(1, device="tcu-2"))
    after = await ring(keys, store_database, *DEVICES)
    assert all(after[one] is before[one] for one in DEVICES)


async def test_as_many_are_kept_as_may_be_and_who_was_not_registered_is_asked_for_again(
    postgres: Postgres, store_database: str
) -> None:
    keys = Keyring(senders_max=2)
    first = await ring(keys, store_database, "tcu-1", "tcu-late")
    await ring(keys, store_database, "tcu-2", "tcu-3")
    again = await ring(keys, store_database, *DEVICES)
    assert first.keys() == {"tcu-1"}
    assert again == first | again
    assert again["tcu-1"] is not first["tcu-1"]
    assert (await ring(keys, store_database, "tcu-1"))["tcu-1"] is again["tcu-1"]
    await postgres.fetch("insert into store.device (device_id, vehicle_no) values ('tcu-late', 1)")
    await postgres.fetch("insert into store.device_state (device_no, epoch) select max(device_no), 7 from store.device")
    await postgres.fetch(
        "insert into store.device_key (device_no, kid, algorithm, public_key) "
        "select max(device_no), 'late', 'EdDSA', $1::bytea from store.device",
        bytes(range(32)),
    )
    assert (await ring(keys, store_database, "tcu-late")).keys() == {"tcu-late"}
