"""Does a device get in by exactly those certificates that an authority of its tenant answers for, at their time?"""

import hashlib
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from ingest.core.certificate import CHAIN_CERTIFICATES_MAX, Presented, read_authority, vouched
from ingest.core.device import Algorithm
from ingest.core.enrolment import Candidate, EnrolmentError
from tests.core.authority import DAY, NOW, Authority, Private, Wanted, p256, pem, root

AT_S = NOW.timestamp()
ROOT = root()
OTHER_ROOT = root()  # of the same name
UNIT = Wanted(("unit-1",))


def offer(
    certificate: x509.Certificate,
    *chain: x509.Certificate,
    trusted: tuple[Authority, ...] = (ROOT,),
    at_s: float = AT_S,
) -> Candidate:
    presented = Presented(pem(certificate), pem(*chain), "vehicle-1", 5)
    return vouched(presented, [one.certificate.public_bytes(Encoding.DER) for one in trusted], at_s)


def refusal(
    certificate: x509.Certificate,
    *chain: x509.Certificate,
    trusted: tuple[Authority, ...] = (ROOT,),
    at_s: float = AT_S,
) -> str:
    with pytest.raises(EnrolmentError) as refused:
        offer(certificate, *chain, trusted=trusted, at_s=at_s)
    return str(refused.value)


@pytest.mark.parametrize("key", [p256(), ed25519.Ed25519PrivateKey.generate()], ids=["P-256", "Ed25519"])
def test_a_device_that_an_authority_vouches_for_is_taken_with_its_key_and_time(key: Private) -> None:
    found = offer(ROOT.certify(key, UNIT))
    public = key.public_key()
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert (found.device_id, found.vehicle_id, found.epoch) == ("unit-1", "vehicle-1", 5)
    assert found.kid == hashlib.sha256(der).digest()
    assert found.algorithm is (Algorithm.P256 if isinstance(public, ec.EllipticCurvePublicKey) else Algorithm.ED25519)
    assert der.endswith(found.public)
    assert found.valid_from_us == (AT_S - DAY.total_seconds()) * 1_000_000
    assert found.valid_until_us == (AT_S + DAY.total_seconds() + 1) * 1_000_000


def test_a_chain_is_followed_through_the_authorities_between() -> None:
    between = ROOT.subordinate("factory")
    line = between.subordinate("line")
    leaf = line.certify(p256(), UNIT)
    assert offer(leaf, between.certificate, line.certificate).device_id == "unit-1"
    assert offer(leaf, line.certificate, trusted=(between,)).device_id == "unit-1"
    assert "no chain" in refusal(leaf, line.certificate)


def test_who_is_not_under_an_authority_of_the_tenant_is_refused() -> None:
    leaf = OTHER_ROOT.certify(p256(), UNIT)
    assert "no chain" in refusal(leaf)
    assert "no chain" in refusal(leaf, OTHER_ROOT.certificate)
    assert "trusts no authority" in refusal(leaf, trusted=())
    assert offer(leaf, trusted=(ROOT, OTHER_ROOT)).device_id == "unit-1"


def test_a_device_cannot_vouch_for_another() -> None:
    key = p256()
    device = ROOT.certify(key, UNIT)
    forged = Authority(key, device).certify(p256(), Wanted(("unit-2",)))
    assert "no chain" in refusal(forged, device)


def test_an_authority_that_may_have_none_below_it_has_none() -> None:
    last = ROOT.subordinate("last", path_length=0)
    beyond = last.subordinate("beyond")
    assert offer(last.certify(p256(), UNIT), last.certificate).device_id == "unit-1"
    assert "no chain" in refusal(beyond.certify(p256(), UNIT), beyond.certificate, last.certificate)


def test_a_certificate_is_good_for_its_time_with_its_last_second() -> None:
    leaf = ROOT.certify(p256(), UNIT)
    day_s = DAY.total_seconds()
    assert offer(leaf, at_s=AT_S - day_s).device_id == "unit-1"
    assert offer(leaf, at_s=AT_S + day_s).device_id == "unit-1"
    assert "valid only from" in refusal(leaf, at_s=AT_S - day_s - 0.001)
    assert "valid only until" in refusal(leaf, at_s=AT_S + day_s + 1)


def test_an_authority_is_good_for_its_time_only() -> None:
    old = root(until=NOW - timedelta(hours=1))
    assert "no chain" in refusal(old.certify(p256(), UNIT), trusted=(old,))


@pytest.mark.parametrize(
    ("wanted", "because"),
    [
        (Wanted(("unit-1",), authority=True), "no chain"),
        (Wanted(("unit-1",), usage="agreement"), "digitalSignature"),
        (Wanted(()), "one common name"),
        (Wanted(("unit-1", "unit-2")), "one common name"),
        (Wanted(("two words",)), "device_id"),
        (Wanted(("u" * 64,)), ""),
        (Wanted(("unit-1",), extra=((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),)), "no chain"),
        (Wanted(("unit-1",), extra=((x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.1"), b"\5\0"), True),)),
         "no chain"),
    ],
    ids=["an authority", "for agreement", "no name", "two names", "no id", "64", "for servers", "unknown and critical"],
)  # fmt: skip
def test_a_certificate_that_is_not_for_a_device_is_refused(wanted: Wanted, because: str) -> None:
    leaf = ROOT.certify(p256(), wanted)
    if because:
        assert because in refusal(leaf)
    else:
        assert offer(leaf).device_id == "u" * 64


@pytest.mark.parametrize(
    "extra",
    [
        (),
        ((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False),),
        ((x509.SubjectAlternativeName([x509.UniformResourceIdentifier("urn:unit:1")]), False),),
        ((x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.1"), b"\5\0"), False),),
    ],
    ids=["without keyUsage", "for clients", "with a name more", "with something of its own"],
)
def test_a_certificate_may_say_more_than_is_asked(extra: tuple[tuple[x509.ExtensionType, bool], ...]) -> None:
    assert offer(ROOT.certify(p256(), Wanted(("unit-1",), usage=None, extra=extra))).device_id == "unit-1"


@pytest.mark.parametrize("key", [rsa.generate_private_key(65_537, 2_048), ec.generate_private_key(ec.SECP384R1())])
def test_the_key_of_a_certificate_passes_the_same_gate(key: Private) -> None:
    assert "this is an RSA key" in (said := refusal(ROOT.certify(key, UNIT))) or "secp384r1" in said


def test_what_is_no_certificate_is_refused() -> None:
    key = p256()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    good = pem(ROOT.certify(key, UNIT))
    for text, because in {
        "": "no certificate", "unit-1": "no certificate", "é": "no certificate", good[:200]: "no certificate",
        private + good: "private key", good + good: "at most 1", "-" * 40_000: "more than",
    }.items():  # fmt: skip
        with pytest.raises(EnrolmentError, match=because):
            vouched(Presented(text, "", "vehicle-1", 1), [], AT_S)
    with pytest.raises(EnrolmentError, match=f"at most {CHAIN_CERTIFICATES_MAX}"):
        vouched(Presented(good, ROOT.pem * 5, "vehicle-1", 1), [], AT_S)


@pytest.mark.parametrize(
    ("authority", "because"),
    [
        (root(usage=None), "may not sign others"),
        (root(usage="agreement"), "may not sign others"),
        (Authority(p256(), ROOT.certify(p256(), UNIT)), "may not sign others"),
        (root(until=NOW - timedelta(hours=1)), "valid only until"),
        (root(from_=NOW + timedelta(hours=1)), "valid only from"),
        (root(key=ed25519.Ed25519PrivateKey.generate()), "ECDSA or RSA"),
        (root(key=rsa.generate_private_key(65_537, 1_024)), "1024 bits"),  # noqa: S505 (weak on purpose)
    ],
    ids=["no keyUsage", "no keyCertSign", "a device", "over", "to come", "Ed25519", "RSA 1024"],
)
def test_an_authority_that_chains_could_not_end_at_is_refused_when_it_is_named(
    authority: Authority, because: str
) -> None:
    with pytest.raises(EnrolmentError, match=because):
        read_authority(authority.pem, AT_S)


@pytest.mark.parametrize(
    "key", [p256(), ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65_537, 2_048)]
)
def test_an_authority_is_taken_and_devices_under_it(key: Private) -> None:
    authority = root(key=key)
    assert read_authority(authority.pem, AT_S) == authority.certificate.public_bytes(Encoding.DER)
    assert offer(authority.certify(p256(), UNIT), trusted=(authority,)).device_id == "unit-1"
