"""What `weighbridge loadtest` measures, at a size that a test has time for: the figures mean nothing, the counts do."""

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from ingest.__main__ import main
from ingest.config import EngineChoice
from ingest.core.device import Algorithm
from ingest.core.signature import OpenSSL
from ingest.core.verdict import Verdict
from loadtest.chaos.stage import Servers
from loadtest.compare import naive, trial
from loadtest.compare.bound import Parts
from loadtest.compare.cpu import CORES
from loadtest.compare.product import Cpu
from loadtest.compare.trial import Course, Row
from loadtest.corpus import Order
from loadtest.costs.case import CASES
from loadtest.costs.trial import Report, Wish, measure
from loadtest.costs.trial import Row as Cost

REASONS = ("malformed", "bad_signature", "out_of_range", "duplicate", "seq_jump")


@pytest.mark.real
async def test_naive_product_and_bound_are_compared_on_the_same_messages(pair: Servers, tmp_path: Path) -> None:
    order = Order(devices=20, messages=300, samples=2, algorithm=Algorithm.P256)
    rows = await trial.compare(pair, [Course(order, few=100, rounds=1, processes=(2,))], tmp_path)
    assert [row.engine for row in rows] == [EngineChoice.PORTABLE, EngineChoice.MULTIBUFFER]
    assert all((row.alg, row.samples, row.devices, row.processes) == (Algorithm.P256, 2, 20, 2) for row in rows)
    assert all(row.naive > 0 for row in rows)
    measured = [row for row in rows if not row.missing]
    assert measured, "the portable engine is everywhere"
    for row in measured:
        assert row.product
        assert row.bound
        assert row.over_naive == pytest.approx(row.product / row.naive)
        assert row.over_bound == pytest.approx(row.product / row.bound)
        for used in (row.cpu_us, row.parts_us):
            assert used
            assert all(us > 0 for us in msgspec.structs.astuple(used))


@pytest.mark.real
async def test_costs_are_those_of_the_verdicts_that_were_meant(pair: Servers, tmp_path: Path) -> None:
    wish = Wish(messages=60, batch=20, rounds=1, reasons=REASONS)
    report = await measure(pair, wish, OpenSSL(), tmp_path)
    assert {str(row.reason or row.verdict) for row in report.rows} == {*REASONS, "accepted"}
    assert report.rows[0].verdict is Verdict.ACCEPTED
    assert all(row.worker_us > 0 for row in report.rows)


def test_a_refusal_that_costs_more_than_an_acceptance_is_named() -> None:
    accepted, waits = Cost(Verdict.ACCEPTED, None, 50.0, 20.0), Cost(Verdict.HELD, None, 90.0, 90.0, 1.8, 4.5)
    cheap, dear, taxing = (
        Cost(Verdict.REFUSED, case.reason, 50.0, 20.0, worker_ratio, server_ratio)
        for case, worker_ratio, server_ratio in zip(CASES[2:], (1.0, 1.01, 0.1), (1.0, 0.1, 1.01), strict=False)
    )
    assert Report("portable", [accepted, waits, cheap, dear, taxing]).dear == [dear, taxing]


def test_an_engine_that_is_not_here_is_said_to_be_missing() -> None:
    done = trial.Round(naive.Done(100, 2.0, 1.0), {}, {})
    row = trial.absent(Course(Order(1, 100), 100, 1), EngineChoice.MULTIBUFFER, "no such processor", [done])
    assert (row.naive, row.product, row.missing) == (50.0, None, "no such processor")


def test_the_bound_is_what_all_cores_could_do_with_nothing_else_to_do() -> None:
    assert Parts(2.0, 10.0, 4.0, 3.0, 1.0).rate == CORES * 50_000


def test_rows_are_written_for_scripts() -> None:
    row = Row(Algorithm.ED25519, EngineChoice.PORTABLE, 1, 5_000, 100.0, 250.0, 300.0, 2.5, 0.83, cpu_us=Cpu(1, 2, 3))
    said = msgspec.json.decode(msgspec.json.encode({"rows": [row]}))["rows"][0]
    named = ("alg", "engine", "samples", "naive", "product", "bound", "over_naive", "over_bound")
    assert [said[name] for name in named] == ["EdDSA", "portable", 1, 100.0, 250.0, 300.0, 2.5, 0.83]


def test_help_says_what_can_be_measured() -> None:
    done = CliRunner().invoke(main, ["loadtest", "--help"])
    assert done.exit_code == 0
    assert "compare" in done.output
    assert "costs" in done.output
