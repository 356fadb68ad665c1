"""What is broken in the background is not broken in silence, and nobody goes on when the one who watched is gone."""

import asyncio
import os

import pytest

from ingest.adapters.memory.log import MemoryLog
from ingest.adapters.memory.store import MemoryStore
from ingest.process import Partitions, notice_orphaned, until_told
from ingest.worker import Worker
from tests.simulation import corridor


async def break_down() -> None:
    await asyncio.sleep(0)
    raise AssertionError("we are bad")


async def go_on() -> None:
    await asyncio.Event().wait()


async def test_what_breaks_in_the_background_breaks_the_process() -> None:
    partitions = Partitions(drain_s_max=1)
    async with partitions.alongside(break_down(), "broken"):
        with pytest.raises(AssertionError, match="we are bad"):
            await until_told(asyncio.Event(), partitions)


async def test_what_breaks_after_we_were_told_to_stop_is_not_passed_over() -> None:
    partitions, told = Partitions(drain_s_max=1), asyncio.Event()
    told.set()
    await until_told(told, partitions)
    async with partitions.alongside(break_down(), "broken"):
        await asyncio.sleep(0.01)
    with pytest.raises(AssertionError, match="we are bad"):
        partitions.check()


async def test_what_goes_on_in_the_background_ends_with_its_block() -> None:
    partitions, before = Partitions(drain_s_max=1), asyncio.all_tasks()
    async with partitions.alongside(go_on(), "endless"):
        assert len(asyncio.all_tasks()) == len(before) + 1
    assert asyncio.all_tasks() == before
    partitions.check()


async def test_who_has_lost_its_parent_is_told_to_stop() -> None:
    told = asyncio.Event()
    await notice_orphaned(os.getppid() + 1, told)
    assert told.is_set()


async def test_who_has_its_parent_goes_on() -> None:
    partitions, told = Partitions(drain_s_max=1), asyncio.Event()
    async with partitions.alongside(notice_orphaned(os.getppid(), told), "orphaned?"):
        await asyncio.sleep(0.05)
        assert not told.is_set()


async def test_who_is_about_to_leave_begins_nothing_that_the_group_may_still_give_it() -> None:
    log, store = MemoryLog({0: [], 1: []}, 10), MemoryStore({}, [])
    worker = Worker(corridor.TOPIC, log, store, corridor.examiner(), corridor.kill_nobody, corridor.Listener())
    partitions, told = Partitions(drain_s_max=1), asyncio.Event()
    partitions.begin(worker, frozenset({0}))
    told.set()
    await until_told(told, partitions)
    await partitions.end(partitions.ours)
    partitions.begin(worker, frozenset({0, 1}))
    assert not partitions.ours
    partitions.check()
