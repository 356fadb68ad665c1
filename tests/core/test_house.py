"""The house keeps its own rules: those that neither ruff nor import-linter knows."""

import ast
import re
import statistics
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.core.verdict import Hold, Refusal, Verdict

ROOT = Path(__file__).parents[2]
ROOMS = ("ingest", "device_sim", "deploy", "loadtest", "tests")
FUNCTION_LINES_MAX = 60
FUNCTION_LINES_MEDIAN_BELOW = 10
FILE_LINES_MAX = 400
VAGUE_NAMES = {"utils", "common", "helpers", "base", "manager", "handler", "service", "models", "types"}
VAGUE_NAMES |= {name.removesuffix("s") for name in VAGUE_NAMES}

MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name the functions of a module, with the lines that each takes, without its decorators."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{name_of(path)}: {node.name}", (node.end_lineno or 0) - node.lineno + 1


@pytest.mark.parametrize("room", ROOMS)
def test_functions_are_short(room: str) -> None:
    lengths = {name: lines for path in MODULES if name_of(path).startswith(room) for name, lines in functions(path)}
    assert {name: lines for name, lines in lengths.items() if lines > FUNCTION_LINES_MAX} == {}
    assert statistics.median(lengths.values()) < FUNCTION_LINES_MEDIAN_BELOW


def test_files_are_about_one_thing() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: lines for name, lines in lengths.items() if lines > FILE_LINES_MAX} == {}


def test_nothing_has_a_name_that_says_nothing() -> None:
    names = {part for path in MODULES for part in path.relative_to(ROOT).with_suffix("").parts}
    assert names & VAGUE_NAMES == set()


@pytest.mark.parametrize("path", [path for path in MODULES if "tests" not in path.parts], ids=name_of)
def test_a_module_opens_with_the_question_that_it_answers(path: Path) -> None:
    said = ast.get_docstring(ast.parse(path.read_text()))
    assert said
    assert re.match(r"[A-Z].*[?.:]", said, re.DOTALL)


def test_only_one_module_makes_a_verified() -> None:
    makers = {
        name_of(path)
        for path in (ROOT / "ingest").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Verified"
    }
    assert makers == {"ingest/core/signature.py"}


def test_reasons_are_the_closed_set_of_the_contract() -> None:
    text = (ROOT / "schemas" / "envelope.md").read_text()
    decisions = set(re.findall(r"^\|[ \d]*\| (refused|held) \| `(\w+)` \|", text, re.MULTILINE))
    undecided = set(re.findall(r"^\* (refused) `(\w+)`,", text, re.MULTILINE))
    reasons = {("refused", str(reason)) for reason in Refusal} | {("held", str(reason)) for reason in Hold}
    assert decisions | undecided == reasons
    assert set(re.findall(r"^\| (accepted|duplicate|held|refused) \| [a-z]", text, re.MULTILINE)) == set(Verdict)


def kept_files() -> list[Path]:
    """List what is in the repository, or would be with the next commit."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    return [path for name in listing.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


# An address of anything but this machine, less the names of XML namespaces, which nobody fetches.
ADDRESS = re.compile(r"(?:https?|ftp|git|ssh)://(?!127\.0\.0\.1|localhost|\[::1\]|[{$<*])[\w.-]+[^\s\"'<>)]*")
NAMESPACE = re.compile(r"http://(?:www\.w3\.org/\d|maven\.apache\.org/(?:POM|xsd)/)")
INDEX = re.compile(r"\b(?:pypi|pythonhosted|npmjs|rubygems|artifactory|repo1?\.maven)\.(?:org|com|io|net|apache)\b")
MACHINE_PATH = re.compile(r"(?<![\w.*)\]}-])/(?:work|root|home|Users)\b")


@pytest.mark.parametrize("path", kept_files(), ids=name_of)
def test_no_file_names_a_foreign_host_or_a_path_of_one_machine(path: Path) -> None:
    text = path.read_text()
    assert [found for found in ADDRESS.findall(text) if not NAMESPACE.match(found)] == []
    assert INDEX.findall(text) == []
    assert MACHINE_PATH.findall(text) == []


@pytest.mark.parametrize("path", sorted(ROOT.glob("**/[!.]*.lock")), ids=name_of)
def test_a_lock_says_what_and_never_from_where(path: Path) -> None:
    for line in path.read_text().splitlines():
        assert re.fullmatch(
            r"[\w.\[\]-]+==\S+(?: ; [^@:]+)? \\|    --hash=sha256:[0-9a-f]{64}(?: \\)?|[0-9a-f]{64} [ *]\S+", line
        )
