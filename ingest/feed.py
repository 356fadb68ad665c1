"""How do committed alerts reach those who listen? One relay at a time publishes them, and marks what is acknowledged.

At least once: whoever is killed between the two publishes again what its successor finds unmarked, under the same id.
Alerts of a device come in order, as each relay publishes all that is unmarked in the order of their rows.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import NoReturn, Protocol

import msgspec
import structlog

from ingest.ports import Backlog, Channel, Notice, Outbox, TroubleError

ALERTS_AT_ONCE = 200
LOOK_EVERY_S = 0.5  # for what is new
STAND_BY_S = 5.0  # between two looks at whether somebody is needed
RETRY_S = 5.0

Outboxes = Callable[[], AbstractAsyncContextManager[Outbox]]
Channels = Callable[[], AbstractAsyncContextManager[Channel]]


class Observer(Protocol):
    """Who is told what happened: the metrics."""

    def waiting(self, backlog: Backlog) -> None:
        """Take note of how much is not published, as of now."""

    def published(self, kinds: Mapping[str, int]) -> None:
        """Take note of what was published, by kind."""


async def relay(outboxes: Outboxes, channels: Channels, observer: Observer) -> NoReturn:
    """Publish what is committed, or stand by while somebody else does; through any trouble, for ever."""
    while True:
        try:
            async with outboxes() as outbox:
                await _stand_by(outbox, observer)
                async with channels() as channel:
                    await _publish(outbox, channel, observer)
        except TroubleError as error:
            retry_in_s = RETRY_S * random.uniform(0.5, 1.5)  # noqa: S311 (spreads the retries; no secret)
            structlog.get_logger().warning("not_fed", error=str(error), retry_in_s=round(retry_in_s, 2))
            await asyncio.sleep(retry_in_s)


async def _stand_by(outbox: Outbox, observer: Observer) -> None:
    while not await outbox.lead():
        observer.waiting(await outbox.backlog())
        await asyncio.sleep(STAND_BY_S)
    structlog.get_logger().info("feeding")


async def _publish(outbox: Outbox, channel: Channel, observer: Observer) -> NoReturn:
    while True:
        observer.waiting(await outbox.backlog())
        notices = await outbox.read(ALERTS_AT_ONCE)
        if notices:
            await channel.publish([(notice.subject.encode(), event_of(notice)) for notice in notices])
            await outbox.mark(notices)
            observer.published(Counter(notice.kind for notice in notices))
        else:
            await asyncio.sleep(LOOK_EVERY_S)


def event_of(notice: Notice) -> bytes:
    """Write an alert as CloudEvents 1.0 asks, in the structured mode of its JSON format."""
    where = {"incarnation": notice.incarnation, "partition": notice.partition, "offset": notice.offset}
    return msgspec.json.encode(
        {
            "specversion": "1.0",
            "id": notice.id,
            "source": f"/weighbridge/{notice.topic}",
            "type": f"weighbridge.alert.{notice.kind}",
            "subject": notice.subject,
            "time": _time(notice.raised_at_us),
            "datacontenttype": "application/json",
            "data": {
                "kind": notice.kind,
                "device": notice.device_id,
                "tenant": notice.tenant,
                "position": {"topic": notice.topic, **where},
                "evidence": msgspec.Raw(notice.evidence.encode()),
            },
        }
    )


def _time(us: int) -> str:
    """Write a time as RFC 3339 asks."""
    instant = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=us)
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")
