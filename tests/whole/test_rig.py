"""Loads of every kind at a size that a test has time for: verdicts are the true ones, and the report stands alone."""

import re
import time
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from click.testing import CliRunner
from msgspec.structs import replace

from ingest.__main__ import main
from ingest.adapters.topics import prepare_topic
from ingest.config import EngineChoice
from ingest.core.device import Algorithm
from ingest.core.verdict import Hold, Verdict
from loadtest.chaos.stage import Servers
from loadtest.compare.ground import PARTITIONS
from loadtest.rig.scenario import SCENARIOS, Wish
from loadtest.rig.sender import TICK_S, Sender, Task, Told
from loadtest.rig.trial import play, play_all, settle

WISH = Wish(
    rate=120.0,
    seconds=2.0,
    warm=0.0,
    devices=18,
    samples=1,
    algorithm=Algorithm.ED25519,
    engine=EngineChoice.AUTO,
    processes=1,
    senders=2,
    seed=1,
)


@pytest.mark.real
@pytest.mark.parametrize("name", ["drain", "tenants"])
async def test_every_message_of_a_load_gets_the_verdict_that_it_deserves(
    pair: Servers, tmp_path: Path, name: str
) -> None:
    (course,) = SCENARIOS[name].plan(WISH)
    result = await play(pair, course, WISH, tmp_path)
    assert (result.wrong, result.unaccounted) == (0, 0), result.examples
    assert sum(count.given for count in result.counts) == course.count == result.messages
    assert sum(second.committed for second in result.seconds_seen) == course.count
    assert result.waited.count == course.streams[0].flow.count
    assert result.seconds_seen[-1].lag == 0
    assert {"workers", "PostgreSQL", "Kafka", "rig"} == set(result.cpu_us)
    if name == "tenants":
        assert (Verdict.HELD, Hold.RATE_LIMITED) in {(count.verdict, count.reason) for count in result.counts}


@pytest.mark.real
async def test_what_was_taken_says_how_much_is_sent_next(pair: Servers, tmp_path: Path) -> None:
    scenario = SCENARIOS["saturation"]
    first, second = await play_all(pair, scenario, WISH, tmp_path)
    assert first.wrong == first.unaccounted == second.wrong == second.unaccounted == 0
    assert first.parts[0].goodput > 0
    assert second.parts[0].offered == pytest.approx(0.7 * min(first.parts[0].goodput, 120.0), rel=0.05)
    assert second.messages == pytest.approx(first.messages, abs=1)
    (found,) = settle(scenario, [first, second])
    assert found.value == second.waited.p99 / 1_000
    assert found.holds == (found.value <= 1.0)


@pytest.mark.real
async def test_what_is_due_within_a_tick_goes_out_together(
    pair: Servers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (course,) = SCENARIOS["steady"].plan(replace(WISH, rate=3_000.0, seconds=1.0))
    await prepare_topic(pair.kafka, "ticks", PARTITIONS)
    task = Task(pair.kafka, "ticks", course.streams, str(tmp_path), tuple(range(PARTITIONS)))
    async with AIOKafkaProducer(bootstrap_servers=pair.kafka) as producer:
        sender = Sender(task, producer)
        began_s = time.time() + 0.3
        await sender.run(began_s)
        took_s = time.time() - began_s
    told = [msgspec.json.decode(line, type=Told) for line in capsys.readouterr().out.splitlines()]
    assert told[-1].sent == course.count == 3_000
    assert min(span.appended_at_ms for one in told for span in one.spans) >= int(began_s * 1000)  # when due
    assert sum(len(one.spans) for one in told) <= PARTITIONS * (took_s / TICK_S + 1)


@pytest.mark.real
async def test_a_message_that_deserves_another_verdict_than_it_gets_is_found(pair: Servers, tmp_path: Path) -> None:
    (course,) = SCENARIOS["replay"].plan(replace(WISH, processes=2))
    honest, again = course.streams
    mistaken = replace(course, streams=(honest, replace(again, verdict=Verdict.ACCEPTED)))
    result = await play(pair, mistaken, replace(WISH, processes=2), tmp_path)
    assert result.wrong == again.flow.count
    assert "deserved accepted, found duplicate" in result.examples[0]
    assert {len(usage.rss_mb) for usage in result.usage} == {2}


@pytest.mark.real
def test_the_command_writes_a_report_that_needs_no_other_file(tmp_path: Path) -> None:
    asked = ["--rate", "100", "--seconds", "2", "--warm", "0", "--devices", "12", "--processes", "1"]
    places = ["--cache", str(tmp_path), "--state", str(tmp_path / "state"), "--report", str(tmp_path / "flood.html")]
    done = CliRunner().invoke(main, ["loadtest", "flood", *asked, *places, "--json"])
    assert done.exit_code == 0, done.output
    said = msgspec.json.decode(done.stdout.splitlines()[-1])
    assert said == msgspec.json.decode((tmp_path / "flood.json").read_bytes())
    assert said["results"][0]["wrong"] == 0
    assert said["ratios"][0]["value"] > 0
    text = (tmp_path / "flood.html").read_text(encoding="utf-8")
    assert re.findall(r"https?://|<script|<link|<img|@import|url\(", text) == []
    for drawn in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ET.fromstring(drawn)  # noqa: S314 (we drew it)
    assert text.count("<svg") == 6
