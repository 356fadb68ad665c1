"""Nothing lost, nothing doubled, whatever strikes; and the oracle that says so would notice if it were otherwise."""

import ast
from pathlib import Path

import pytest
from click.testing import CliRunner

from loadtest.simulation import oracle
from loadtest.simulation.__main__ import simulate
from loadtest.simulation.storm import Fault
from loadtest.simulation.trial import SCENARIOS, SMALL_MESSAGES, SMALL_SCENARIO, Trial, exhaust
from loadtest.simulation.variants import VARIANTS, broken, first_caught

SEEDS = 300
PRODUCT = {
    "ingest.core.judge",
    "ingest.core.outcome",
    "ingest.core.sequence",
    "ingest.worker",
    "ingest.adapters.memory.log",
    "ingest.adapters.memory.store",
    "ingest.pace",
}


@pytest.fixture(scope="module")
def trials() -> list[Trial]:
    return [Trial(number) for number in range(SCENARIOS)]


def test_no_storm_breaks_a_law(trials: list[Trial]) -> None:
    happened: dict[str, int] = {}
    for seed in range(SEEDS):
        finding = trials[seed % SCENARIOS].play(seed)
        assert finding.objections == [], f"seed {seed}: {finding.chronicle.faults}"
        for kind, count in finding.chronicle.counts.items():
            happened[kind] = happened.get(kind, 0) + count
    wanted = {
        "fenced",
        "COMMIT unanswered, had taken effect",
        "COMMIT unanswered, took no effect",
        "COMMIT unanswered, took effect late",
        "crash with a transaction open",
        "rebalance with a transaction open",
        "zombie woke after the take-over",
        "keys moved between reading and lock",
        Fault.ASTRAY,
        Fault.RESTART,
        "store: call slow",
        "store: call failed",
        "log: call failed",
        "death of a worker process by a pill",
        "trial: call failed",
    }
    assert {kind for kind in wanted if not happened.get(kind)} == set()


def test_any_one_call_may_fail_before_or_after_its_effect_or_be_the_last_of_its_process() -> None:
    small = Trial(SMALL_SCENARIO, SMALL_MESSAGES)
    struck = 0
    for finding in exhaust(small):
        assert finding.objections == [], finding.chronicle.faults
        struck += len(finding.chronicle.faults)
    assert struck > 400


@pytest.mark.parametrize("name", VARIANTS)
def test_a_broken_variant_is_caught(name: str, trials: list[Trial]) -> None:
    seed = first_caught(name, trials)
    assert seed is not None
    assert trials[seed % SCENARIOS].play(seed).objections == []


def test_a_seed_gives_the_same_run_to_the_last_step(trials: list[Trial]) -> None:
    first, second = list[str](), list[str]()
    one = trials[3].play(3, say=first.append)
    trials[3].play(4)
    two = Trial(3).play(3, say=second.append)
    assert first == second
    assert one.chronicle.faults == two.chronicle.faults


def test_the_oracle_shares_nothing_with_the_product() -> None:
    tree = ast.parse(Path(oracle.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported & PRODUCT == set()
    assert not any(isinstance(node, ast.Import) and "ingest" in ast.unparse(node) for node in ast.walk(tree))


def test_one_seed_can_be_replayed_by_hand() -> None:
    told = CliRunner().invoke(simulate, ["--seed", "7"])
    assert told.exit_code == 0
    assert "every law was kept" in told.output
    assert "COMMIT, replied" in told.output


def test_a_violation_is_told_with_its_seed_and_its_faults(trials: list[Trial]) -> None:
    name = "a failed commit tried again blindly"
    seed = first_caught(name, trials)
    with broken(name):
        told = CliRunner().invoke(simulate, ["--seed", str(seed)])
    assert told.exit_code == 1
    assert f"seed {seed}: " in told.output
    assert "VIOLATION: " in told.output
