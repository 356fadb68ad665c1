"""Who vouches for a device's key? A chain of certificates (RFC 5280) to an authority that its tenant trusts.

The chain is built and checked by `cryptography`, for the time that it is given. Whether a certificate was revoked by
its authority is not asked: here, keys are revoked.
"""

import hashlib
from collections.abc import Sequence

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import verification
from cryptography.x509.oid import NameOID

from ingest.core.enrolment import Candidate, EnrolmentError, admit, check_identity

PEM_CHARACTERS_MAX = 32_768
CHAIN_CERTIFICATES_MAX = 4  # between a device's and its authority's
RSA_BITS_MIN = 2_048
SECOND_US = 1_000_000


class Presented(msgspec.Struct, frozen=True):
    """A device's certificate and those above it, as they were handed in, and for what it is presented."""

    certificate: str  # PEM
    chain: str  # PEM, perhaps of several or of none
    vehicle_id: str
    epoch: int


def read_authority(pem: str, at_s: float) -> bytes:
    """Check the certificate of an authority that a tenant wants to answer for; returns it as DER."""
    (found,) = _load(pem, 1)
    _check_time(found, at_s)
    if not _may_sign_certificates(found):
        raise EnrolmentError(
            "this certificate may not sign others: an authority's has basicConstraints CA:TRUE and keyUsage keyCertSign"
        )
    key = found.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey) or key.key_size < 256:
        raise EnrolmentError("an authority signs with ECDSA or RSA; chains under another kind of key cannot be checked")
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < RSA_BITS_MIN:
        raise EnrolmentError(f"this authority's RSA key has {key.key_size} bits; it must have {RSA_BITS_MIN} or more")
    return found.public_bytes(Encoding.DER)


def vouched(presented: Presented, authorities: Sequence[bytes], at_s: float) -> Candidate:
    """Check that an authority vouches for a device's key at this time. Raises EnrolmentError."""
    (leaf,) = _load(presented.certificate, 1)
    above = _load(presented.chain, CHAIN_CERTIFICATES_MAX) if presented.chain.strip() else []
    if not authorities:
        raise EnrolmentError("the tenant trusts no authority yet: name one with `weighbridge tenants trust`")
    _check_time(leaf, at_s)
    _check_chain(leaf, above, [x509.load_der_x509_certificate(der) for der in authorities], at_s)
    _check_use(leaf)
    algorithm, public = admit(*_key(leaf))
    device_id, kid = _name(leaf), key_name(leaf)
    check_identity(device_id, presented.vehicle_id, presented.epoch, kid.hex())
    valid_from = round(leaf.not_valid_before_utc.timestamp()) * SECOND_US
    valid_until = round(leaf.not_valid_after_utc.timestamp() + 1) * SECOND_US  # its last second included (4.1.2.5)
    return Candidate(
        device_id, presented.vehicle_id, presented.epoch, kid, algorithm, public, None, valid_from, valid_until
    )


def key_name(certificate: x509.Certificate) -> bytes:
    """Give the kid of a certificate's key: SHA-256 of its SubjectPublicKeyInfo, so that a renewal keeps it."""
    public = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(public).digest()


def _load(pem: str, count_max: int) -> list[x509.Certificate]:
    """Parse certificates in PEM; what holds a private key is refused by its looks."""
    if "PRIVATE KEY" in pem:
        raise EnrolmentError("this is a private key, which must never leave its device: treat it as disclosed")
    if len(pem) > PEM_CHARACTERS_MAX:
        raise EnrolmentError(f"this is no certificate in PEM: it has more than {PEM_CHARACTERS_MAX} characters")
    try:
        found = x509.load_pem_x509_certificates(pem.encode("ascii"))
    except ValueError:  # UnicodeEncodeError too
        raise EnrolmentError('this is no certificate in PEM ("-----BEGIN CERTIFICATE-----")') from None
    if len(found) > count_max:
        raise EnrolmentError(f"there are {len(found)} certificates here; at most {count_max} may be")
    return found


def _check_time(certificate: x509.Certificate, at_s: float) -> None:
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if at_s < first.timestamp():
        raise EnrolmentError(f"this certificate is valid only from {first.isoformat()}")
    if at_s >= last.timestamp() + 1:
        raise EnrolmentError(f"this certificate was valid only until {last.isoformat()}")


def _check_chain(
    leaf: x509.Certificate, above: list[x509.Certificate], authorities: list[x509.Certificate], at_s: float
) -> None:
    time = type(leaf.not_valid_before_utc).fromtimestamp(at_s, leaf.not_valid_before_utc.tzinfo)
    device = verification.ExtensionPolicy.webpki_defaults_ee().may_be_present(  # a device has no name in the DNS
        x509.SubjectAlternativeName, verification.Criticality.AGNOSTIC, None
    )
    verifier = (
        verification.PolicyBuilder()
        .store(verification.Store(authorities))
        .time(time)
        .max_chain_depth(CHAIN_CERTIFICATES_MAX)
        .extension_policies(ca_policy=verification.ExtensionPolicy.webpki_defaults_ca(), ee_policy=device)
        .build_client_verifier()
    )
    try:
        verifier.verify(leaf, above)
    except (verification.VerificationError, ValueError) as error:
        raise EnrolmentError(f"no chain of certificates leads to an authority of the tenant: {error}"[:400]) from None


def _check_use(leaf: x509.Certificate) -> None:
    usage = _usage(leaf)
    if usage is not None and not usage.digital_signature:
        raise EnrolmentError("this certificate is not for signing: its keyUsage does not name digitalSignature")


def _may_sign_certificates(certificate: x509.Certificate) -> bool:
    usage = _usage(certificate)
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return False
    return constraints.ca and usage is not None and usage.key_cert_sign


def _usage(certificate: x509.Certificate) -> x509.KeyUsage | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return None


def _key(leaf: x509.Certificate) -> tuple[str, str]:
    """Give the algorithm and the key as the gate wants them; other kinds of key than ours are refused there."""
    key = leaf.public_key()
    alg = "EdDSA" if isinstance(key, ed25519.Ed25519PublicKey) else "ES256"
    return alg, key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _name(leaf: x509.Certificate) -> str:
    names = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(names) != 1 or not isinstance(names[0].value, str):
        raise EnrolmentError(f"a device's certificate has one common name, the device id; this one has {len(names)}")
    return names[0].value
