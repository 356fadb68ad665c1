import json
from pathlib import Path

import msgspec
import pytest

from ingest.config import REQUIRED, RULES, LogLevel, Settings, SettingsError, Whole, read, read_file, variable
from ingest.core.policy import Policy

NEEDED = {"WEIGHBRIDGE_KAFKA": "127.0.0.1:9092", "WEIGHBRIDGE_DATABASE": "postgresql://w@127.0.0.1:5432/w"}


def problems_of(toml: str | None, environ: dict[str, str]) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        read(toml, environ)
    return caught.value.problems


def test_what_is_required_is_enough() -> None:
    settings = read(None, NEEDED)
    assert settings == Settings(kafka="127.0.0.1:9092", database="postgresql://w@127.0.0.1:5432/w")
    assert settings.policy == Policy()


def test_the_file_alone_is_enough() -> None:
    text = """
        kafka = "one:9092,two:9092,[::1]:9092"
        database = "postgres:///weighbridge?host=/run/postgresql"
        batch_wait_ms = 100
        log_level = "warning"
        [policy]
        age_s_max = 86_400
    """
    settings = read(text, {})
    assert settings.batch_wait_ms == 100
    assert settings.log_level is LogLevel.WARNING
    assert settings.policy == Policy(age_s_max=86_400)


def test_the_environment_lies_over_the_file() -> None:
    text = "batch_wait_ms = 100\nbatch_records_max = 10\n[policy]\nsamples_max = 7"
    environ = NEEDED | {"WEIGHBRIDGE_BATCH_WAIT_MS": "50", "WEIGHBRIDGE_POLICY_SAMPLES_MAX": "9"}
    settings = read(text, environ)
    assert (settings.batch_wait_ms, settings.batch_records_max, settings.policy.samples_max) == (50, 10, 9)


def test_an_empty_variable_counts_as_not_set() -> None:
    assert read(None, NEEDED | {"WEIGHBRIDGE_TOPIC": ""}).topic == "telemetry.raw"


def test_what_others_read_is_left_alone() -> None:
    others = {"WEIGHBRIDGE_CONFIG": "x", "WEIGHBRIDGE_STATE": "y", "PATH": "/bin"}
    assert read(None, NEEDED | others) == read(None, NEEDED)


def test_every_setting_has_a_rule_and_every_default_keeps_it() -> None:
    names = [field.name for field in msgspec.structs.fields(Settings) if field.name != "policy"]
    limits = [f"policy.{field.name}" for field in msgspec.structs.fields(Policy)]
    assert list(RULES) == names + limits
    defaults = msgspec.to_builtins(Settings(kafka="a:1", database="postgresql://b"))
    environ = {variable(name): str(defaults[name]) for name in names}
    environ |= {variable(name): str(defaults["policy"][name.removeprefix("policy.")]) for name in limits}
    assert read(None, environ) == Settings(kafka="a:1", database="postgresql://b")


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if isinstance(rule, Whole)])
@pytest.mark.parametrize("value", ["-1", "1.5", "many", "0x10", "1e3", "٣", " 1", "9" * 20, "9" * 5_000])
def test_a_number_is_held_to_its_range(name: str, value: str) -> None:
    (problem,) = problems_of(None, NEEDED | {variable(name): value})
    assert problem.startswith(f"{name} is {value!r}"[:60])
    assert "expected a whole number from" in problem
    assert len(problem) < 300


@pytest.mark.parametrize(
    "value", ["true", '"many"', "1.0", "[1]", "{ a = 1 }", "1979-05-27", "-1", "99999999999999999999"]
)
def test_a_number_in_the_file_is_a_number(value: str) -> None:
    (problem,) = problems_of(f"batch_records_max = {value}", NEEDED)
    assert problem.startswith("batch_records_max is ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kafka", "127.0.0.1"),
        ("kafka", "one:9092,"),
        ("kafka", "one:9092\n"),
        ("topic", "no spaces"),
        ("topic", "a" * 250),
        ("group", "group/1"),
        ("http_host", "http://127.0.0.1"),
        ("log_level", "loud"),
        ("log_level", "INFO"),
    ],
)
def test_a_text_is_held_to_its_form(name: str, value: str) -> None:
    (problem,) = problems_of(None, NEEDED | {variable(name): value})
    assert problem.startswith(f"{name} is ")
    assert "expected" in problem


def test_every_problem_is_reported_at_once() -> None:
    text = 'topik = "x"\nhttp_port = 70_000\n[policy]\nage = 5\nsamples_max = 0'
    found = problems_of(text, {"WEIGHBRIDGE_DATABSE": "x", "WEIGHBRIDGE_KAFKA": "here", "WEIGHBRIDGE_GROUP": "a b"})
    assert sorted(problem.partition(";")[0] for problem in found) == [
        "'WEIGHBRIDGE_DATABSE' is not a setting",
        "'policy.age' is not a setting",
        "'topik' is not a setting",
        "database is not given",
        "group is 'a b'",
        "http_port is 70000",
        "kafka is 'here'",
        "policy.samples_max is 0",
    ]


def test_a_problem_says_what_is_expected_and_where_to_set_it() -> None:
    (problem,) = problems_of("http_port = 70_000", NEEDED)
    assert problem == (
        "http_port is 70000; expected a whole number from 0 to 65535 (in the file, or as WEIGHBRIDGE_HTTP_PORT)"
    )
    (problem,) = problems_of('topik = "x"', NEEDED)
    assert problem == "'topik' is not a setting; is topic meant?"


@pytest.mark.parametrize("name", REQUIRED)
def test_what_is_required_is_asked_for(name: str) -> None:
    (problem,) = problems_of(None, {key: value for key, value in NEEDED.items() if key != variable(name)})
    assert problem.startswith(f"{name} is not given; expected ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("database", "mysql://weigher:hunter2@db/w"),
        ("database", "host=db password=hunter2"),
        ("database", "postgresql://weigher:hunter2@db/w w"),
        ("database", "hunter2"),
        ("kafka", "postgresql://weigher:hunter2@db/w"),
        ("topic", "host=db password=hunter2"),
        ("http_port", "postgresql://weigher:hunter2@db/w"),
        ("hunter", "hunter2"),
    ],
)
def test_a_password_is_never_shown(name: str, value: str) -> None:
    for text, environ in [(None, {variable(name): value}), (f"{name} = {json.dumps(value)}", {})]:
        left = {key: given for key, given in NEEDED.items() if key != variable(name)}
        with pytest.raises(SettingsError) as caught:
            read(text, left | environ)
        assert "hunter2" not in str(caught.value)


def test_printing_the_settings_shows_no_password() -> None:
    assert "hunter2" not in repr(read(None, NEEDED | {"WEIGHBRIDGE_DATABASE": "postgresql://w:hunter2@db/w"}))


def test_limits_must_agree_with_each_other() -> None:
    (problem,) = problems_of("[policy]\nclock_ok_s_max = 600\nclock_ahead_s_max = 300", NEEDED)
    assert "clock_ok_s_max is 600, above policy.clock_ahead_s_max (300)" in problem
    (problem,) = problems_of("[policy]\nclock_ok_s_max = 600\nage_s_max = 300", NEEDED)
    assert "clock_ok_s_max is 600, above policy.age_s_max (300)" in problem


@pytest.mark.parametrize(("text", "expected"), [("kafka = ", "not TOML"), ("policy = 3", "policy is not a table")])
def test_a_file_that_makes_no_sense_is_a_problem_like_others(text: str, expected: str) -> None:
    (problem,) = problems_of(text, NEEDED)
    assert expected in problem


def test_the_file_is_the_one_named_on_the_command_line_or_in_the_environment(tmp_path: Path) -> None:
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    first.write_text('topic = "first"')
    second.write_text('topic = "second"')
    environ = NEEDED | {"WEIGHBRIDGE_CONFIG": str(second)}
    assert read_file(first, environ).topic == "first"
    assert read_file(None, environ).topic == "second"
    assert read_file(None, NEEDED).topic == "telemetry.raw"


def test_a_file_that_cannot_be_read_is_a_clear_problem(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.toml cannot be read"):
        read_file(tmp_path / "absent.toml", NEEDED)
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'topic = "caf\xe9"')
    with pytest.raises(SettingsError, match="not UTF-8"):
        read_file(latin, NEEDED)
