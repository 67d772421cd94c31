"""A bundle that was signed by whom the site trusts, and one that was not."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from allpacs.app import make_pipeline
from allpacs.classify.signature import SIGNATURE_FILE, check_signature
from allpacs.domain.errors import ConfigFault, ModelFault
from allpacs.settings import SHIPPED_BUNDLE, ModelSettings, Settings


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SHIPPED_BUNDLE, tmp_path / "bundle"))


def public_file(folder: Path, key: object) -> Path:
    path = folder / "trusted.pem"
    public = key.public_key()  # type: ignore[attr-defined]
    path.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


def signed(bundle: Path) -> Ed25519PrivateKey:
    key = Ed25519PrivateKey.generate()
    (bundle / SIGNATURE_FILE).write_bytes(key.sign((bundle / "bundle.json").read_bytes()))
    return key


def test_a_bundle_signed_by_whom_the_site_trusts_is_used(bundle: Path, tmp_path: Path) -> None:
    trusted = public_file(tmp_path, signed(bundle))
    check_signature(bundle, trusted)
    settings = Settings(model=ModelSettings(bundle=bundle, trusted_key=trusted))
    assert make_pipeline(settings).bundle.contract.name


def test_a_bundle_signed_by_somebody_else_changed_or_not_signed_is_refused(bundle: Path, tmp_path: Path) -> None:
    trusted = public_file(tmp_path, Ed25519PrivateKey.generate())
    settings = Settings(model=ModelSettings(bundle=bundle, trusted_key=trusted))
    with pytest.raises(ModelFault, match="not signed"):
        make_pipeline(settings)
    key = signed(bundle)
    with pytest.raises(ModelFault, match="not signed with"):
        make_pipeline(settings)
    public_file(tmp_path, key)
    contract = bundle / "bundle.json"
    contract.write_bytes(contract.read_bytes() + b" ")
    with pytest.raises(ModelFault, match="changed"):
        make_pipeline(settings)


def test_a_key_that_is_none_or_of_another_kind_is_told(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "trusted.pem").write_text("no key")
    with pytest.raises(ConfigFault, match="trusted_key"):
        check_signature(bundle, tmp_path / "trusted.pem")
    with pytest.raises(ConfigFault, match="Ed25519"):
        check_signature(bundle, public_file(tmp_path, generate_private_key(65537, 2048)))


def test_the_command_that_the_module_names_signs(bundle: Path, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")
    key = Ed25519PrivateKey.generate()
    private = tmp_path / "release.key"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    sign = f"openssl pkeyutl -sign -rawin -inkey {private} -in bundle.json -out bundle.sig"
    subprocess.run(sign.split(), cwd=bundle, check=True)
    check_signature(bundle, public_file(tmp_path, key))
