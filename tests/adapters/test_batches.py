"""Whatever a batch holds, none of its positions gets two records, and what is broken does not harm its neighbours."""

from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from ingest.adapters.batches import read
from tests.whole.batch import LOG_APPEND_TIME, batch, record, varint

AT = TopicPartition("topic", 0)
BODIES = st.lists(st.binary(max_size=20), min_size=1, max_size=6)


@given(BODIES, st.data())
def test_no_position_gets_two_records_whatever_the_bytes(values: list[bytes], data: st.DataObject) -> None:
    body = bytearray(b"".join(record(place, value, [(b"a", value)]) for place, value in enumerate(values)))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    codec = data.draw(st.integers(0, 7))
    found = read(batch(bytes(body), len(values), LOG_APPEND_TIME | codec, 5), AT, 0, 100)
    offsets = [one.offset for one in found.records]
    assert offsets == sorted(set(offsets) & set(range(5, 5 + len(values))))
    assert found.next_offset == 5 + len(values)


@given(BODIES, st.binary(max_size=20))
def test_a_broken_record_harms_no_neighbour(values: list[bytes], broken: bytes) -> None:
    bodies = [record(place, value) for place, value in enumerate(values)]
    bodies.insert(1, varint(len(broken) + 2) + b"\0\xff" + broken)  # its own time never ends
    bodies[2:] = [record(place, value) for place, value in enumerate(values[1:], 2)]
    found = read(batch(b"".join(bodies), len(bodies), LOG_APPEND_TIME), AT, 0, 100)
    assert [one.value for one in found.records if one.offset != 1] == values
    assert [one.offset for one in found.records] == list(range(len(bodies)))
