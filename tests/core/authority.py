"""What does a certification authority do? Certificates for tests, under keys made at run time."""

from datetime import UTC, datetime, timedelta

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

Private = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
DAY = timedelta(days=1)
NOW = datetime.now(UTC).replace(microsecond=0)


def p256() -> Private:
    return ec.generate_private_key(ec.SECP256R1())


class Wanted(msgspec.Struct, frozen=True):
    """What a certificate is to say."""

    names: tuple[str, ...]
    authority: bool = False
    from_: datetime = NOW - DAY
    until: datetime = NOW + DAY
    usage: str | None = "usual"  # "usual", "agreement", or None
    path_length: int | None = None
    extra: tuple[tuple[x509.ExtensionType, bool], ...] = ()


class Authority(msgspec.Struct, frozen=True):
    """An authority with its own certificate."""

    key: Private
    certificate: x509.Certificate

    @property
    def pem(self) -> str:
        return pem(self.certificate)

    def certify(self, key: Private, wanted: Wanted) -> x509.Certificate:
        """Sign a certificate for a key."""
        return _sign(key, wanted, self.certificate.subject, self.key)

    def subordinate(self, name: str, path_length: int | None = None) -> "Authority":
        """Make an authority under this one."""
        key = p256()
        return Authority(key, self.certify(key, Wanted((name,), authority=True, path_length=path_length)))


def root(name: str = "root", key: Private | None = None, **wanted: object) -> Authority:
    """Make an authority that nobody vouches for."""
    own = key or p256()
    asked = Wanted((name,), authority=True)
    asked = msgspec.structs.replace(asked, **wanted)
    return Authority(own, _sign(own, asked, _subject(asked), own))


def pem(*certificates: x509.Certificate) -> str:
    return "".join(one.public_bytes(Encoding.PEM).decode() for one in certificates)


def _subject(wanted: Wanted) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in wanted.names])


def _sign(key: Private, wanted: Wanted, issuer: x509.Name, by: Private) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(_subject(wanted))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(wanted.from_)
        .not_valid_after(wanted.until)
        .add_extension(x509.BasicConstraints(wanted.authority, wanted.path_length), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if wanted.usage is not None:
        builder = builder.add_extension(_usage(wanted), critical=True)
    for extension, critical in wanted.extra:
        builder = builder.add_extension(extension, critical)
    return builder.sign(by, None if isinstance(by, ed25519.Ed25519PrivateKey) else SHA256())


def _usage(wanted: Wanted) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=wanted.usage == "usual" and not wanted.authority,
        key_agreement=wanted.usage == "agreement",
        key_cert_sign=wanted.usage == "usual" and wanted.authority,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        encipher_only=False,
        decipher_only=False,
    )
