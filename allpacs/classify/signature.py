"""Who released a bundle: an Ed25519 signature over its contract, which holds the digest of every other file.

A release signs ``bundle.json`` with its private key, for example
``openssl pkeyutl -sign -rawin -inkey release.key -in bundle.json -out bundle.sig``; a site trusts the public one.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from allpacs.classify.contract import CONTRACT_FILE
from allpacs.domain.errors import ConfigFault, ModelFault

SIGNATURE_FILE = "bundle.sig"


def check_signature(bundle: Path, trusted_key: Path) -> None:
    """Return where a bundle's contract was signed with the private key that belongs to a trusted public one.

    Parameters
    ----------
    bundle:
        Its folder.
    trusted_key:
        PEM file of an Ed25519 public key.

    Raises
    ------
    ModelFault
        The bundle is not signed, or by somebody else, or was changed since.
    ConfigFault
        The key cannot be used.
    """
    try:
        key = load_pem_public_key(trusted_key.read_bytes())
    except (OSError, ValueError) as unusable:
        raise ConfigFault(
            f"model.trusted_key: {trusted_key}: no public key in PEM ({type(unusable).__name__})"
        ) from None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigFault(f"model.trusted_key: {trusted_key}: write the file of an Ed25519 public key")
    try:
        signature = (bundle / SIGNATURE_FILE).read_bytes()
        key.verify(signature, (bundle / CONTRACT_FILE).read_bytes())
    except OSError:
        raise ModelFault(f"{bundle} is not signed: use a bundle with its {SIGNATURE_FILE}") from None
    except InvalidSignature:
        raise ModelFault(f"{bundle} was not signed with model.trusted_key, or was changed since") from None
