"""The C2PA signature of a pack of evidence.

It is a C2PA manifest in an entry of its own in the ZIP archive. It covers all other files of the
pack and the directory of the archive. Signing and checking need ``pip install 'unmemorize[c2pa]'``.
"""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from unmemorize._errors import EvidenceError
from unmemorize._files import as_path, read_bytes, refuse_unprintable

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

CREDENTIAL = "META-INF/content_credential.c2pa"
"""The entry of the signature, which C2PA prescribes."""
SIGNATURE_ENTRIES = frozenset({"META-INF/", CREDENTIAL})
_FORMAT = "zip"
_SOURCE = "http://c2pa.org/digitalsourcetype/trainedAlgorithmicData"
"""The term of C2PA for data that was computed with a trained model."""
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
_OFFLINE = {"remote_manifest_fetch": False, "ocsp_fetch": False}
_UNTRUSTED = "signingCredential.untrusted"
_END = struct.Struct("<4s4H2LH")
"""The last record of a ZIP archive."""
_WAY_OUT = "Do not rely on this pack; ask for the original one."


@dataclass(frozen=True)
class Signature:
    """A signature that fits its pack of evidence.

    Args:
        subject: whom the signer's certificate names, such as "CN=Jane Doe, O=A Lab".
        issuer: whom it names as its issuer.
        serial: its number in hexadecimal.
        trusted: whether it was issued under a certificate that the caller trusts. If not, anybody
            may have written these names.
    """

    subject: str
    issuer: str
    serial: str
    trusted: bool


@dataclass(frozen=True)
class Signer:
    """A certificate and its private key, which sign packs of evidence.

    Make it by `Signer.load`, which checks both.

    Args:
        certificate: in PEM form. Those of its issuers may follow.
        key: the private key in PEM form, without a password.
        algorithm: what C2PA calls the algorithm of this key.
    """

    certificate: str
    key: str = field(repr=False)
    algorithm: str

    @classmethod
    def load(cls, certificate: str | Path, key: str | Path) -> Self:
        """Read a certificate and its key, and try them on a small archive.

        Args:
            certificate: a PEM file: the signer's certificate, then those of its issuers, if any.
            key: a PEM file with the private key of the first one: Ed25519, RSA, or an elliptic
                curve (P-256, P-384 or P-521), without a password.

        Raises:
            EvidenceError: a file cannot be read, the key does not belong to the certificate, C2PA
                does not accept the certificate, or c2pa-python is not installed.
        """
        _c2pa()
        certificate = as_path(certificate, EvidenceError, "certificate")
        key = as_path(key, EvidenceError, "private key")
        chain = _certificates(certificate)
        private_key, algorithm = _private_key(key)
        from cryptography.hazmat.primitives import serialization as forms

        def public_form(public_key: Any) -> bytes:
            form = forms.PublicFormat.SubjectPublicKeyInfo
            return bytes(public_key.public_bytes(forms.Encoding.DER, form))

        if public_form(private_key.public_key()) != public_form(chain[0].public_key()):
            raise EvidenceError(
                f"{key}: this key does not belong to the first certificate in {certificate}. Give "
                "the key that the certificate was made with; the signer's own certificate comes "
                "first."
            )
        plain = private_key.private_bytes(
            forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption()
        )
        signer = cls(_pem(chain), plain.decode(), algorithm)
        trial = io.BytesIO()
        with zipfile.ZipFile(trial, "w") as archive:
            archive.writestr("trial", b"")
        try:
            signer.sign(trial, io.BytesIO())
        except EvidenceError as problem:
            raise EvidenceError(
                f"{certificate}: {problem} A signing certificate is valid today, has the key usage "
                "digitalSignature and the extended key usage emailProtection, and is not that of "
                "an authority. See docs/report.md."
            ) from problem
        return signer

    def sign(self, pack: BinaryIO, signed: BinaryIO) -> None:
        """Write a copy of a pack with the signature in it.

        Args:
            pack: a ZIP archive, open for reading.
            signed: the copy, open for writing and reading.

        Raises:
            EvidenceError: C2PA does not accept it.
        """
        c2pa = _c2pa()
        manifest = {
            "claim_generator_info": [{"name": "unmemorize", "version": version("unmemorize")}],
            "title": "evidence of a mitigation",
            "assertions": [
                {
                    "label": "c2pa.actions",
                    "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": _SOURCE}]},
                }
            ],
        }
        certificate, key = self.certificate.encode(), self.key.encode()
        info = c2pa.C2paSignerInfo(self.algorithm, certificate, key, None)
        pack.seek(0)
        try:
            with c2pa.Signer.from_info(info) as signer, c2pa.Builder(manifest) as builder:
                builder.sign(signer, _FORMAT, pack, signed)
        except c2pa.C2paError as problem:
            raise EvidenceError(f"C2PA refuses to sign with it ({problem}).") from problem


def read_signature(path: Path, trust: Path | None) -> Signature:
    """Check the signature of a pack that has one.

    Args:
        path: the pack.
        trust: a PEM file with certificates that are trusted: of issuers, or of signers who issued
            their own.

    Raises:
        EvidenceError: the signature does not fit the pack, is not under a trusted certificate where
            one is given, or c2pa-python is not installed.
    """
    c2pa = _c2pa(f"{path}: the pack is signed, and to check this")
    settings: dict[str, Any] = {"verify": _OFFLINE}
    if trust is not None:
        settings["trust"] = {"user_anchors": _pem(_certificates(trust))}
    _refuse_ambiguous(path)
    try:
        with (
            path.open("rb") as pack,
            c2pa.Context.from_dict(settings) as context,
            c2pa.Reader(_FORMAT, pack, context=context) as reader,
        ):
            state = reader.get_validation_state()
            checked, described = json.loads(reader.json()), json.loads(reader.crjson())
    except c2pa.C2paError as problem:
        raise EvidenceError(
            f"{path}: the signature is damaged ({problem}). {_WAY_OUT}"
        ) from problem
    if state not in ("Valid", "Trusted"):
        failures = checked["validation_results"]["activeManifest"]["failure"]
        reasons = [each["explanation"] for each in failures if each["code"] != _UNTRUSTED]
        raise EvidenceError(
            f"{path}: the signature does not hold ({'; '.join(reasons)}). {_WAY_OUT}"
        )
    active = checked["active_manifest"]
    (manifest,) = (each for each in described["manifests"] if each["label"] == active)
    certificate = manifest["signature"]["certificateInfo"]
    signature = Signature(
        subject=_name(certificate["subject"]),
        issuer=_name(certificate["issuer"]),
        serial=certificate["serialNumber"],
        trusted=state == "Trusted",
    )
    names = {"subject": signature.subject, "issuer": signature.issuer}
    refuse_unprintable(names, EvidenceError, f"{path}: certificate", _WAY_OUT)
    if trust is not None and not signature.trusted:
        raise EvidenceError(
            f"{path}: signed by {signature.subject}, but not under a certificate in {trust}. Give "
            "the certificate of its issuer, or the signer's own if it has no other issuer. If that "
            "is the one, the pack comes from somebody else."
        )
    return signature


def _refuse_ambiguous(path: Path) -> None:
    """Refuse an archive in which two readers may see different files.

    Everything must lie between its first byte and its last, without anything in front or behind.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _END.size), os.SEEK_SET)
        record = file.read()
    if len(record) == _END.size:
        mark, *_, length, start, comment = _END.unpack(record)
        if mark == b"PK\x05\x06" and not comment and start + length + _END.size == size:
            return
    raise EvidenceError(f"{path}: there is something in front of the archive or behind. {_WAY_OUT}")


def _certificates(path: Path) -> list[Certificate]:
    from cryptography import x509

    content = read_bytes(path, EvidenceError, "certificate")
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as problem:
        raise EvidenceError(
            f"{path}: holds no certificate in PEM form ({problem}). It begins with "
            "-----BEGIN CERTIFICATE-----."
        ) from problem


def _pem(certificates: Iterable[Certificate]) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    return "".join(each.public_bytes(Encoding.PEM).decode() for each in certificates)


def _private_key(path: Path) -> tuple[Any, str]:
    """Read a private key and the name of its algorithm."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content = read_bytes(path, EvidenceError, "private key")
    try:
        key = load_pem_private_key(content, password=None)
    except TypeError as problem:
        raise EvidenceError(
            f"{path}: the key has a password. Give a copy without one: openssl pkey -in {path}"
        ) from problem
    except (ValueError, UnsupportedAlgorithm) as problem:
        raise EvidenceError(
            f"{path}: holds no private key in PEM form. It begins with -----BEGIN PRIVATE KEY-----."
        ) from problem
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key, "ed25519"
    if isinstance(key, rsa.RSAPrivateKey):
        return key, "ps256"
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        return key, _CURVES[key.curve.name]
    raise EvidenceError(
        f"{path}: C2PA has no signature by such a key. Take Ed25519, RSA, P-256, P-384 or P-521."
    )


def _name(parts: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in parts.items()) or "nobody by name"


def _c2pa(what: str = "a signature") -> Any:
    """Import the library, which is optional."""
    try:
        import c2pa
        import cryptography  # noqa: F401
    except ImportError as problem:
        raise EvidenceError(
            f"{what} needs c2pa-python. pip install 'unmemorize[c2pa]'"
        ) from problem
    return c2pa
