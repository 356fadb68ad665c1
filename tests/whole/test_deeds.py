"""While keys are rotated and revoked, units replaced and vehicles sold, each message gets its verdict and its owner."""

import json
from pathlib import Path

import pytest

from deploy import embedded
from tests.whole.house import open_house

pytestmark = pytest.mark.real

SECONDS, DEEDS_PER_S = 15, 10
REACHED_PER_S = 1  # a busy machine is no fault


def test_deeds_under_load_leave_no_wrong_verdict_and_no_wrong_owner(
    servers: embedded.Addresses, tmp_path: Path
) -> None:
    wish = ("--vehicles", "150", "--rate", "150", "--seconds", str(SECONDS), "--deeds", str(DEEDS_PER_S))
    with open_house(servers, tmp_path, partitions=0) as house:
        said = house.run("lifecycle", *wish, "--json", "--state", tmp_path).stdout
    report = json.loads(said.splitlines()[-1])
    assert report["good"], report["claims"]
    assert report["deeds"] >= REACHED_PER_S * SECONDS
    assert sum(count for name, count in report.items() if name.startswith("thefts_")) > 0
