"""What do the public vectors say of an engine? Reads those beside the checkout, if they are there."""

import json
from pathlib import Path
from typing import Any

import pytest

from ingest.core.enrolment import EnrolmentError, admit
from ingest.core.signature import Job

FOLDER = Path(__file__).parents[3] / "shared" / "vectors"
FILES = {"EdDSA": "ed25519_test.json", "ES256": "ecdsa_secp256r1_sha256_p1363_test.json"}


def cases(alg: str) -> list[Any]:
    """Give each vector as a parameter: its group and itself."""
    path = FOLDER / FILES[alg]
    if not path.exists():
        return [pytest.param(None, None, marks=pytest.mark.skip(reason=f"{path.name} is not beside this checkout"))]
    groups = json.loads(path.read_text())["testGroups"]
    return [pytest.param(group, test, id=str(test["tcId"])) for group in groups for test in group["tests"]]


def job_of(alg: str, group: dict[str, Any], test: dict[str, Any]) -> Job | None:
    """Give what an engine is asked, or None where the gate keeps the vector's key out; that one is never valid."""
    try:
        algorithm, public = admit(alg, group["publicKeyPem"])
    except EnrolmentError:
        assert test["result"] != "valid"
        return None
    return Job(algorithm, public, bytes.fromhex(test["msg"]), bytes.fromhex(test["sig"]))
