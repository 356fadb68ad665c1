"""What is this installation set to? Read once at the start, from a file and the environment, every problem at once.

A setting changes how the work is done; what changes a verdict is policy, and stands in its own table. See
decisions/settings.md.
"""

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path

import msgspec

from ingest.core.policy import Policy
from ingest.core.verdict import Evidence

PREFIX = "WEIGHBRIDGE_"
FOR_OTHERS = frozenset({"WEIGHBRIDGE_CONFIG", "WEIGHBRIDGE_STATE"})  # read by the command line
SHOWN_CHARS_MAX = 80


class SettingsError(ValueError):
    """Everything that is wrong with the settings, one problem a line."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(["The settings cannot be used:", *(f"  - {problem}" for problem in problems)]))
        self.problems = tuple(problems)


class LogLevel(StrEnum):
    """From how important an event is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class EngineChoice(StrEnum):
    """Which engine checks signatures. All give the same verdicts."""

    AUTO = "auto"  # the fastest that works here
    PORTABLE = "portable"  # the fastest that works anywhere
    MULTIBUFFER = "multibuffer"
    OPENSSL = "openssl"  # the one that the others are compared with


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings, checked. `policy` is the part that changes verdicts."""

    kafka: str = ""  # bootstrap servers, host:port, separated by commas
    database: str = ""  # postgresql:// URL; may hold a password
    topic: str = "telemetry.raw"
    alerts_topic: str = "fleet.alerts"
    group: str = "weighbridge"
    batch_records_max: int = 12_500
    batch_bytes_max: int = 4 * 2**20
    batch_samples_max: int = 25_000
    batch_wait_ms: int = 250
    batches_at_once: int = 3
    engine: EngineChoice = EngineChoice.AUTO
    http_host: str = "127.0.0.1"
    http_port: int = 0  # 0: no /metrics and /healthz; several processes take this port and those after it
    log_level: LogLevel = LogLevel.INFO
    drain_s_max: int = 6  # with the leaving of the group, and a machine that has no time, a worker is gone within 10 s
    policy: Policy = Policy()

    def __repr__(self) -> str:
        """Never the database: whoever prints the settings does not mean to print its password."""
        return f"Settings(kafka={self.kafka!r}, topic={self.topic!r}, group={self.group!r}, ...)"


class Whole(msgspec.Struct, frozen=True):
    """A whole number, both bounds included."""

    minimum: int
    maximum: int


class Word(msgspec.Struct, frozen=True):
    """A text of this pattern; `expected` says it to people."""

    pattern: str
    expected: str
    secret: bool = False


Rule = Whole | Word

_DATABASE_HOST = r"([\w.%-]*|\[[0-9a-fA-F:]+\])(:\d{1,5})?"

RULES: dict[str, Rule] = {
    "kafka": Word(
        r"([\w.-]+|\[[0-9a-fA-F:]+\]):\d{1,5}(,([\w.-]+|\[[0-9a-fA-F:]+\]):\d{1,5})*",
        "bootstrap servers, such as 127.0.0.1:9092 or one:9092,two:9092",
    ),
    "database": Word(
        rf"postgres(ql)?://([^@/\s]*@)?{_DATABASE_HOST}(,{_DATABASE_HOST})*([/?]\S*)?",
        "a URL, such as postgresql://user@127.0.0.1:5432/weighbridge (in a password, write @ and / as %40 and %2F)",
        secret=True,
    ),
    "topic": Word(r"[A-Za-z0-9._-]{1,249}", "the name of a Kafka topic: letters, digits, dots, underscores, hyphens"),
    "alerts_topic": Word(r"[A-Za-z0-9._-]{1,249}", "the name of a Kafka topic, other than `topic`"),
    "group": Word(r"[A-Za-z0-9._-]{1,249}", "the name of a group: letters, digits, dots, underscores, hyphens"),
    "batch_records_max": Whole(1, 100_000),
    "batch_bytes_max": Whole(2**17, 2**28),
    "batch_samples_max": Whole(1, 1_000_000),
    "batch_wait_ms": Whole(1, 60_000),
    "batches_at_once": Whole(1, 1_000),
    "engine": Word("|".join(EngineChoice), f"one of {', '.join(EngineChoice)}"),
    "http_host": Word(r"[A-Za-z0-9.:-]{1,253}", "a host name or an address, such as 127.0.0.1"),
    "http_port": Whole(0, 65_535),
    "log_level": Word("|".join(LogLevel), f"one of {', '.join(LogLevel)}"),
    "drain_s_max": Whole(1, 300),
    "policy.envelope_bytes_max": Whole(256, 2**20),
    "policy.clock_ok_s_max": Whole(0, 86_400),
    "policy.clock_ahead_s_max": Whole(0, 366 * 86_400),
    "policy.age_s_max": Whole(60, 3_660 * 86_400),
    "policy.seq_jump_max": Whole(1, 2**62),
    "policy.ledger_ranges_max": Whole(1, 1_024),
    "policy.samples_max": Whole(1, 32_767),  # a smallint numbers them
    "policy.refused_bytes_max": Whole(0, 2**20),
    "policy.refused_bytes_per_s_max": Whole(0, 2**30),
    "policy.refused_burst_bytes_max": Whole(0, 2**40),
    "policy.held_bytes_max": Whole(0, 2**40),
    "policy.held_s_max": Whole(3_600, 3_660 * 86_400),
    "policy.release_approvals": Whole(1, 2),
    "policy.device_per_s_max": Whole(1, 1_000_000),
    "policy.device_burst_max": Whole(1, 10**9),
    "policy.device_away_s_max": Whole(0, 366 * 86_400),
    "policy.tenant_per_s_max": Whole(1, 1_000_000),
    "policy.tenant_burst_max": Whole(1, 10**9),
    "policy.fleet_per_s_max": Whole(1, 1_000_000),
    "policy.fleet_burst_max": Whole(1, 10**9),
    **{f"policy.weight_{evidence}": Whole(0, 1_000_000) for evidence in Evidence},
    "policy.watched_from": Whole(1, 2**31 - 1),
    "policy.quarantined_from": Whole(1, 2**31 - 1),
    "policy.suspicion_less_per_h": Whole(0, 1_000_000),
    "policy.guard_devices_min": Whole(0, 1_000_000),
    "policy.guard_share_percent_max": Whole(0, 100),
    "policy.guard_window_s": Whole(1, 86_400),
    "policy.clock_off_s_max": Whole(1, 366 * 86_400),
    "policy.strangers_max": Whole(1, 500),  # the bitmap that counts them has 1,024 bits
}
REQUIRED = ("kafka", "database")  # by whoever needs both


def read_file(path: Path | None, environ: Mapping[str, str], required: Sequence[str] = REQUIRED) -> Settings:
    """Read the file, or the one that WEIGHBRIDGE_CONFIG names, or none; then the environment. Raises SettingsError."""
    named = path or (Path(environ["WEIGHBRIDGE_CONFIG"]) if environ.get("WEIGHBRIDGE_CONFIG") else None)
    if named is None:
        return read(None, environ, required)
    try:
        text = named.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError([f"the file {named} cannot be read ({reason}); name another, or none"]) from None
    return read(text, environ, required)


def read(toml_text: str | None, environ: Mapping[str, str], required: Sequence[str] = REQUIRED) -> Settings:
    """Lay the environment over the file, check everything, and raise one SettingsError with all that is wrong."""
    problems: list[str] = []
    given = _read_toml(toml_text or "", problems) | _read_environ(environ, problems)
    values = {name: _check(name, given[name], problems) for name in RULES if name in given}
    problems += [_describe(name, "not given") for name in required if name not in given]
    if not problems:
        problems = _compare(_nest(values))
    if problems:
        raise SettingsError(problems)
    return msgspec.convert(_nest(values), Settings)


def variable(name: str) -> str:
    """Return the environment variable of a setting: `policy.age_s_max` is WEIGHBRIDGE_POLICY_AGE_S_MAX."""
    return PREFIX + name.replace(".", "_").upper()


def _read_toml(text: str, problems: list[str]) -> dict[str, object]:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problems.append(f"the file is not TOML ({error}); correct it there")
        return {}
    policy = table.pop("policy", {})
    if not isinstance(policy, dict):
        problems.append("policy is not a table; write [policy] above its limits")
        policy = {}
    given = table | {f"policy.{name}": value for name, value in policy.items()}
    problems += [_unknown(name, list(RULES)) for name in given if name not in RULES]
    return given


def _read_environ(environ: Mapping[str, str], problems: list[str]) -> dict[str, object]:
    names = {variable(name): name for name in RULES}
    ours = {key: value for key, value in environ.items() if key.startswith(PREFIX) and key not in FOR_OTHERS}
    problems += [_unknown(key, list(names)) for key in sorted(ours) if key not in names]
    # A variable that is empty counts as one that is not set, as it does to the shell scripts around us.
    return {names[key]: value for key, value in ours.items() if key in names and value}


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"{name[:SHOWN_CHARS_MAX]!r} is not a setting; " + (f"is {near[0]} meant?" if near else "leave it out")


def _check(name: str, value: object, problems: list[str]) -> object:
    rule = RULES[name]
    if isinstance(rule, Word):
        if isinstance(value, str) and re.fullmatch(rule.pattern, value, re.ASCII):
            return value
    else:
        number = _read_whole(value)
        if number is not None and rule.minimum <= number <= rule.maximum:
            return number
    problems.append(_describe(name, _show(rule, value)))
    return None


def _read_whole(value: object) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,20}", value, re.ASCII):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _describe(name: str, state: str) -> str:
    rule = RULES[name]
    expected = rule.expected if isinstance(rule, Word) else f"a whole number from {rule.minimum} to {rule.maximum}"
    return f"{name} is {state}; expected {expected} (in the file, or as {variable(name)})"


def _show(rule: Rule, value: object) -> str:
    """Show what was given, unless it may hold a password: somebody may have mistaken one setting for another."""
    text = repr(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"
    if (isinstance(rule, Word) and rule.secret) or "@" in text or "password" in text.lower():
        return "something else (not shown: it may hold a password)"
    return text if len(text) <= SHOWN_CHARS_MAX else text[:SHOWN_CHARS_MAX] + "..."


def _nest(values: Mapping[str, object]) -> dict[str, object]:
    policy = {name.removeprefix("policy."): value for name, value in values.items() if name.startswith("policy.")}
    return {name: value for name, value in values.items() if "." not in name} | {"policy": policy}


def _compare(values: Mapping[str, object]) -> list[str]:
    """Find limits that are each in range, but not together."""
    policy = msgspec.convert(values["policy"], Policy)
    problems = []
    topic, alerts_topic = (values.get(name, getattr(Settings(), name)) for name in ("topic", "alerts_topic"))
    if topic == alerts_topic:
        problems.append(f"topic and alerts_topic are both {topic}; alerts would be weighed as messages")
    if policy.clock_ok_s_max > policy.clock_ahead_s_max:
        problems.append(
            f"policy.clock_ok_s_max is {policy.clock_ok_s_max}, above policy.clock_ahead_s_max "
            f"({policy.clock_ahead_s_max}); a clock cannot be well and in the future"
        )
    if policy.clock_ok_s_max > policy.age_s_max:
        problems.append(
            f"policy.clock_ok_s_max is {policy.clock_ok_s_max}, above policy.age_s_max ({policy.age_s_max}); "
            "a clock cannot be well and its messages stale"
        )
    return problems
