"""Signed packs of evidence: who signed is said, and only a trusted certificate shows it."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mitigated_run import mitigated_run
from unmemorize import EvidenceError, Run, Signer, verify_evidence, write_evidence
from unmemorize.report import Signature
from unmemorize.report._signature import CREDENTIAL, read_signature

pytest.importorskip("c2pa", reason="needs the extra c2pa")

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from certificates import Holder, holder

Cli = Callable[..., tuple[int, str, str]]

AUTHORITY = holder("An Authority", authority=True)
JANE = holder("Jane Doe", AUTHORITY)
NAMES = {
    "subject": "CN=Jane Doe, O=A Lab",
    "issuer": "CN=An Authority, O=A Lab",
    "serial": "abc123",
}


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path, Signer]:
    """A run, its signed pack, and who signed it."""
    folder = tmp_path_factory.mktemp("signed")
    run = mitigated_run(folder)
    signer = Signer.load(*JANE.save(folder, "jane"))
    write_evidence(run, folder / "signed.zip", signer=signer)
    return run, folder / "signed.zip", signer


def copied(pack: Path, to: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """Write the files of a pack again, after a change."""
    with zipfile.ZipFile(pack) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with zipfile.ZipFile(to, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return to


def test_a_signed_pack_says_who_signed_it(signed: tuple[Run, Path, Signer], tmp_path: Path) -> None:
    run, pack, _ = signed
    check = verify_evidence(pack)
    assert check.signature == Signature(**NAMES, trusted=False)
    assert check.sha256 == hashlib.sha256(pack.read_bytes()).hexdigest()
    write_evidence(run, tmp_path / "plain.zip")
    plain = verify_evidence(tmp_path / "plain.zip")
    assert plain.signature is None
    assert (check.files, check.numbers) == (plain.files, plain.numbers)
    with zipfile.ZipFile(tmp_path / "plain.zip") as first, zipfile.ZipFile(pack) as second:
        names = first.namelist()
        assert second.namelist() == [*names, "META-INF/", CREDENTIAL]
        assert all(first.read(name) == second.read(name) for name in names)


def test_a_pack_is_trusted_under_the_certificate_of_its_issuer(
    signed: tuple[Run, Path, Signer], tmp_path: Path
) -> None:
    _, pack, _ = signed
    authority, _ = AUTHORITY.save(tmp_path, "authority")
    assert verify_evidence(pack, trust=authority).signature == Signature(**NAMES, trusted=True)
    namesake, _ = holder("An Authority", authority=True).save(tmp_path, "namesake")
    with pytest.raises(EvidenceError, match="signed by CN=Jane Doe, O=A Lab, but not under"):
        verify_evidence(pack, trust=namesake)
    (tmp_path / "no.pem").write_text("nothing")
    with pytest.raises(EvidenceError, match=r"no.pem: holds no certificate in PEM form"):
        verify_evidence(pack, trust=tmp_path / "no.pem")


def test_a_signer_without_another_issuer_is_trusted_by_the_own_certificate(
    signed: tuple[Run, Path, Signer], tmp_path: Path
) -> None:
    alone = holder("Jane Doe").save(tmp_path, "alone")
    write_evidence(signed[0], tmp_path / "e.zip", signer=Signer.load(*alone))
    signature = verify_evidence(tmp_path / "e.zip", trust=alone[0]).signature
    assert signature is not None
    assert signature.trusted
    assert signature.issuer == signature.subject == NAMES["subject"]
    impostor, _ = holder("Jane Doe").save(tmp_path, "impostor")
    with pytest.raises(EvidenceError, match="the pack comes from somebody else"):
        verify_evidence(tmp_path / "e.zip", trust=impostor)


@pytest.mark.parametrize(
    "key",
    [
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP521R1()),
    ],
    ids=["ed25519", "rsa", "p384", "p521"],
)
def test_kinds_of_keys(tmp_path: Path, key: Any) -> None:
    signer = Signer.load(*holder("Jane Doe", AUTHORITY, key=key).save(tmp_path, "jane"))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    with (tmp_path / "a.zip").open("rb") as pack, (tmp_path / "b.zip").open("w+b") as copy:
        signer.sign(pack, copy)
    authority, _ = AUTHORITY.save(tmp_path, "authority")
    assert read_signature(tmp_path / "b.zip", authority) == Signature(**NAMES, trusted=True)


def test_a_consistent_forgery_does_not_fit_the_signature(
    signed: tuple[Run, Path, Signer], tmp_path: Path
) -> None:
    """A forger who makes the hashes fit cannot make the signature fit."""

    def forge(files: dict[str, bytes]) -> None:
        contents = json.loads(files["evidence.json"])
        files["edit.json"] += b" "
        listed = contents["files"]["edit.json"]
        listed["sha256"] = hashlib.sha256(files["edit.json"]).hexdigest()
        files["evidence.json"] = json.dumps(contents).encode()

    def sign_off(files: dict[str, bytes]) -> None:
        forge(files)
        del files[CREDENTIAL], files["META-INF/"]

    _, pack, _ = signed
    with pytest.raises(EvidenceError, match=r"the signature does not hold \(collection hash"):
        verify_evidence(copied(pack, tmp_path / "forged.zip", forge))
    stripped = copied(pack, tmp_path / "stripped.zip", sign_off)
    assert verify_evidence(stripped).signature is None
    with pytest.raises(EvidenceError, match="is not signed, so nothing shows who made it"):
        verify_evidence(stripped, trust=AUTHORITY.save(tmp_path, "authority")[0])


def test_a_changed_file_of_a_signed_pack_is_named(
    signed: tuple[Run, Path, Signer], tmp_path: Path
) -> None:
    def change(files: dict[str, bytes]) -> None:
        files["report.html"] += b" "

    with pytest.raises(EvidenceError, match=r"report.html was changed"):
        verify_evidence(copied(signed[1], tmp_path / "changed.zip", change))


@pytest.mark.parametrize(("front", "behind"), [(b"x", b""), (b"", b"x"), (b"", b"PK\x05\x06" * 6)])
def test_a_signed_pack_is_nothing_but_the_archive(
    signed: tuple[Run, Path, Signer], tmp_path: Path, front: bytes, behind: bytes
) -> None:
    """Two readers might see different files in it."""
    pack = tmp_path / "longer.zip"
    pack.write_bytes(front + signed[1].read_bytes() + behind)
    with pytest.raises(EvidenceError):
        verify_evidence(pack)
    with pytest.raises(EvidenceError, match="something in front of the archive or behind"):
        read_signature(pack, None)


@pytest.mark.parametrize("content", [b"", b"torn"])
def test_a_torn_signature(signed: tuple[Run, Path, Signer], tmp_path: Path, content: bytes) -> None:
    def tear(files: dict[str, bytes]) -> None:
        files[CREDENTIAL] = content

    with pytest.raises(EvidenceError, match="the signature is damaged"):
        verify_evidence(copied(signed[1], tmp_path / "torn.zip", tear))


def test_names_that_would_control_a_terminal_are_refused(
    signed: tuple[Run, Path, Signer], tmp_path: Path
) -> None:
    signer = Signer.load(*holder("Jane\x1b[2J", AUTHORITY).save(tmp_path, "jane"))
    write_evidence(signed[0], tmp_path / "e.zip", signer=signer)
    with pytest.raises(EvidenceError, match="a text holds control characters"):
        verify_evidence(tmp_path / "e.zip")


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (holder("Jane", AUTHORITY, purpose=False), "the certificate is invalid"),
        (holder("Jane", AUTHORITY, expired=True), "the certificate was not valid at time of sign"),
        (AUTHORITY, "C2PA refuses to sign with it"),
        (Holder(JANE.certificate, holder("x").key), "does not belong to the first certificate in"),
        (
            holder("Jane", AUTHORITY, key=ec.generate_private_key(ec.SECP256K1())),
            "C2PA has no signature by such a key. Take Ed25519,",
        ),
    ],
    ids=["purpose", "expired", "authority", "other key", "curve"],
)
def test_certificates_that_cannot_sign(tmp_path: Path, bad: Holder, named: str) -> None:
    with pytest.raises(EvidenceError, match=re.escape(named)):
        Signer.load(*bad.save(tmp_path, "bad"))


def test_files_that_hold_no_certificate_or_key(tmp_path: Path) -> None:
    certificate, key = JANE.save(tmp_path, "jane")
    _, locked = JANE.save(tmp_path, "locked", password=b"secret")
    with pytest.raises(EvidenceError, match=r"locked.key.pem: the key has a password"):
        Signer.load(certificate, locked)
    with pytest.raises(EvidenceError, match=r"jane.pem: holds no private key in PEM form"):
        Signer.load(certificate, certificate)
    with pytest.raises(EvidenceError, match=r"jane.key.pem: holds no certificate in PEM form"):
        Signer.load(key, key)
    with pytest.raises(EvidenceError, match=r"none.pem: the certificate cannot be read"):
        Signer.load(tmp_path / "none.pem", key)


def test_a_signer_does_not_show_its_key(signed: tuple[Run, Path, Signer]) -> None:
    assert "PRIVATE" in signed[2].key
    assert "PRIVATE" not in repr(signed[2])


def test_a_pack_that_cannot_be_signed_is_not_written(
    signed: tuple[Run, Path, Signer], tmp_path: Path
) -> None:
    other = Signer.load(*holder("Another").save(tmp_path, "other"))
    mixed = Signer(signed[2].certificate, other.key, other.algorithm)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(EvidenceError, match="C2PA refuses to sign"):
        write_evidence(signed[0], tmp_path / "e.zip", signer=mixed)
    assert sorted(tmp_path.iterdir()) == before


def test_the_commands(signed: tuple[Run, Path, Signer], tmp_path: Path, cli: Cli) -> None:
    run, _, _ = signed
    certificate, key = JANE.save(tmp_path, "jane")
    authority, _ = AUTHORITY.save(tmp_path, "authority")
    pack = tmp_path / "e.zip"
    code, out, _ = cli("report", run.folder, "--pack", pack, "--sign", certificate, "--key", key)
    assert code == 0
    assert f"evidence: {pack}, signed" in out
    assert hashlib.sha256(pack.read_bytes()).hexdigest() in out
    code, out, _ = cli("verify", pack)
    assert code == 0
    assert "Signed by CN=Jane Doe, O=A Lab. The signature fits all files of the pack." in out
    assert "issued by CN=An Authority, O=A Lab, number abc123" in out
    assert "Nobody vouches for these names" in out
    assert "not signed" not in out
    code, out, _ = cli("verify", pack, "--trust", authority)
    assert code == 0
    assert "under a certificate that you trust" in out
    assert "Nobody vouches" not in out
    code, out, _ = cli("verify", pack, "--json")
    assert json.loads(out)["signature"] == {**NAMES, "trusted": False}
    for arguments, named in (
        (("--pack", pack, "--sign", certificate), "belong together"),
        (("--pack", pack, "--key", key), "belong together"),
        (("--sign", certificate, "--key", key), "Add --pack FILE"),
    ):
        code, _, err = cli("report", run.folder, *arguments)
        assert (code, named in err) == (1, True)
    code, _, err = cli("verify", run.folder / "edit.json", "--trust", authority)
    assert (code, "--trust is for packs of evidence" in err) == (1, True)
