"""Does the command say what is wrong, and write a registry that the import can read?"""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from device_sim.command import simulate


def said(*arguments: str) -> tuple[int, str]:
    result = CliRunner(env={"WEIGHBRIDGE_KAFKA": ""}).invoke(simulate, arguments)
    return result.exit_code, result.output


def test_the_registry_has_a_line_for_each_device_and_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "devices.jsonl"
    status, text = said("--vehicles", "40", "--registry", str(path))
    assert status == 0
    assert "next: weighbridge devices import" in text
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 40
    assert set(lines[0]) == {"device_id", "tenant", "vehicle_id", "epoch", "kid", "alg", "public_key"}
    assert "PRIVATE" not in path.read_text()


def test_a_trace_has_one_vehicle(tmp_path: Path) -> None:
    trace, path = tmp_path / "trip.csv", tmp_path / "devices.jsonl"
    trace.write_text("Date,Time\n")
    assert said("--trace", str(trace), "--registry", str(path))[0] == 0
    assert [json.loads(line)["device_id"] for line in path.read_text().splitlines()] == ["trip-1-000000"]


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ((), "set WEIGHBRIDGE_KAFKA"),
        (("--kafka", "127.0.0.1:1", "--vehicles", "5"), "take at least 28"),
        (("--kafka", "127.0.0.1:1", "--count", "1"), "Kafka at 127.0.0.1:1 does not take messages"),
        (("--map", "speed"), "write field=Column"),
        (("--mix", "evil"), "'honest', 'everything'"),
        (("--registry", "/proc/none/devices.jsonl"), "No such file"),
    ],
)
def test_what_cannot_be_done_is_said(arguments: tuple[str, ...], answer: str) -> None:
    status, text = said(*arguments)
    assert status != 0
    assert answer in text
