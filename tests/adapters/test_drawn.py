"""Are samples that were read at once stored as they would be one by one, and is what has no place in a row known?"""

import random
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from ingest.adapters.postgres.columns import ROWS_AT_ONCE
from ingest.adapters.postgres.provenance import table_of
from ingest.core.alike import Bulk
from ingest.core.message import Drawn, Examined, Lot, Reading, Sample
from ingest.core.verdict import Verdict
from ingest.ports import UnkeepableError
from tests.adapters.contract import CATALOGUE, Postgres, Said, examined, settle_late, take, weigh
from tests.core.bodies import NEWEST, sample_of, wrap, write

pytestmark = pytest.mark.real

COUNT = ROWS_AT_ONCE // 2 + 100
KINDS = ("VehicleState", "BatteryCharging", "Diagnostics")
EPOCH_7 = "select to_jsonb(s) - 'device_no' from store.{} s join store.device d using (device_no) where device_id = $1"


def payloads() -> list[bytes]:
    """Of three kinds and several patterns of what is null, in no order."""
    rng = random.Random(1)
    found = []
    for number in range(COUNT):
        nulls: dict[str, object] = {"altitude": None} if number % 3 else {"humidity": None, "heading": None}
        nulls |= {
            "traveled_distance_m": rng.randrange(100_000, 1_000_000),
            "recorded_at_us": 1_763_800_000_000_000 + number,
        }
        found.append(sample_of("VehicleState", **nulls))
        found.append(sample_of("BatteryCharging", evse_id=None, recorded_at_us=1_763_800_000_000_000 + number))
        found.append(sample_of("Diagnostics", dtc_list=[], recorded_at_us=1_763_800_000_000_000 + number))
    rng.shuffle(found)
    return [wrap(NEWEST, write(NEWEST, [sample])) for sample in found]


async def test_what_is_drawn_from_lots_is_stored_as_what_is_not(postgres: Postgres) -> None:
    drawn = Bulk(CATALOGUE).read(payloads())
    assert all(drawn)
    async with take(postgres) as lease:
        said = [Said(seq, device) for seq in range(1, len(drawn) + 1) for device in ("tcu-1", "tcu-2")]
        messages = await examined(lease, [*said, *said[:10]], 0)  # ten of them twice, which is not stored twice
        samples = [sample for one in drawn if one for sample in (one, tuple(one))]
        settled: list[Examined] = []
        for message, sample in zip(messages, [*samples, *samples[:10]], strict=True):
            assert isinstance(message, Reading)
            settled.append(replace(message, samples=sample))
        await settle_late(lease, settled)
    for kind in KINDS:
        lots, others = [
            sorted(str(row[0]) for row in await postgres.fetch(EPOCH_7.format(table_of(kind)), device))
            for device in ("tcu-1", "tcu-2")
        ]
        assert len(lots) == COUNT
        assert lots == others


def one_of(kind: str, **columns: object) -> Drawn:
    """A sample as if it had been read with others, of which a column holds something else."""
    _, values = sample_of(kind, **({"evse_id": None} if kind == "BatteryCharging" else {}))
    said = {name: None if (value := values.get(name)) is None else np.array([value]) for name in CATALOGUE.fields[kind]}
    other: dict[str, Any] = {name: np.array([value]) for name, value in columns.items()}
    return Drawn(Lot(min(CATALOGUE.known), kind, tuple((said | other).values())), 0)


SPOILT: dict[str, tuple[str, dict[str, object]]] = {
    "an integer out of its range": ("VehicleState", {"current_gear": 40_000}),
    "a fraction for an integer": ("VehicleState", {"traveled_distance_m": 1.5}),
    "a number for a boolean": ("VehicleState", {"is_moving": 2}),
    "a time before any calendar": ("VehicleState", {"recorded_at_us": -(2**63)}),
    "a number for text": ("BatteryCharging", {"evse_id": 3}),
}


@pytest.mark.parametrize(("kind", "columns"), SPOILT.values(), ids=SPOILT)
async def test_a_value_that_its_column_cannot_have_is_known_for_what_it_is(
    postgres: Postgres, kind: str, columns: dict[str, object]
) -> None:
    async with take(postgres) as lease:
        (reading,) = await examined(lease, [Said(1)], 0)
        assert isinstance(reading, Reading)
        with pytest.raises(UnkeepableError) as raised:
            await settle_late(lease, [replace(reading, samples=one_of(kind, **columns))])
        assert not any(str(value) in str(raised.value) for value in columns.values()), "a journal may not quote it"
    async with take(postgres) as lease:
        assert (await weigh(lease, Said(1))).total(Verdict.ACCEPTED) == 1


def test_a_lot_says_what_its_samples_say() -> None:
    drawn = one_of("VehicleState", current_gear=3)
    (sample,) = drawn
    assert isinstance(sample, Sample)
    assert dict(zip(CATALOGUE.fields["VehicleState"], sample.values, strict=True))["current_gear"] == 3
