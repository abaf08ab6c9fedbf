"""What is taken from the package ``cryptography``, and what for: the only place that imports it."""

from __future__ import annotations

import hashlib
from typing import Any, TypeAlias

import numpy as np
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from rolora.secure.fixed import Numbers
from rolora.secure.forms import SIGNATURE, BadForm
from rolora.secure.shamir import BYTES

PrivateKey: TypeAlias = X25519PrivateKey
SigningKey: TypeAlias = ec.EllipticCurvePrivateKey
VerifyingKey: TypeAlias = ec.EllipticCurvePublicKey
_SIGNED = ec.ECDSA(hashes.SHA384())
_HALF = SIGNATURE // 2
_ONCE = bytes(12)
"""A nonce for keys that seal one message and no other."""


def private_key(secret: int) -> PrivateKey:
    """The key that a secret stands for."""
    return X25519PrivateKey.from_private_bytes(_derived(_bytes(secret), b"key of masks"))


def public(key: PrivateKey) -> bytes:
    """The public half, 32 bytes."""
    raw: bytes = key.public_key().public_bytes_raw()
    return raw


def agreed(key: PrivateKey, other: bytes, use: bytes) -> bytes:
    """The 32 bytes that the holders of two keys alone know, another for every `use`.

    Raises:
        BadForm: `other` is no public key, or one of the few with which anybody would know them.
    """
    try:
        return _derived(key.exchange(X25519PublicKey.from_public_bytes(other)), use)
    except ValueError:
        raise BadForm("a public key with which nothing can be agreed") from None


def own_mask(secret: int, size: int) -> Numbers:
    """The mask that a client's own secret stands for."""
    return mask(_derived(_bytes(secret), b"own mask"), size)


def mask(key: bytes, size: int) -> Numbers:
    """So many numbers of the stream of ChaCha20 under a key that is used for nothing else."""
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
    return np.frombuffer(stream.update(bytes(4 * size)), dtype="<u4")


def seal(key: bytes, text: bytes) -> bytes:
    """`text` for whoever has the key, which seals nothing else; 16 bytes longer."""
    sealed: bytes = ChaCha20Poly1305(key).encrypt(_ONCE, text, None)
    return sealed


def unsealed(key: bytes, sealed: bytes) -> bytes | None:
    """What was sealed; None where it was not, or not with this key."""
    try:
        text: bytes = ChaCha20Poly1305(key).decrypt(_ONCE, sealed, None)
    except InvalidTag:
        return None
    return text


def signing_key(text: bytes) -> SigningKey:
    """A private key of P-384 as a node's file has it.

    Raises:
        ValueError: it is none, or one with a passphrase.
    """
    return _of_p384(serialization.load_ssh_private_key(text, None))


def verifying_key(text: bytes) -> VerifyingKey:
    """Its public half, as the file beside it has it.

    Raises:
        ValueError: it is none.
    """
    return _of_p384(serialization.load_ssh_public_key(text))


def _of_p384(key: Any) -> Any:
    if not isinstance(getattr(key, "curve", None), ec.SECP384R1):
        raise ValueError("it is no key of P-384")
    return key


def signature(key: SigningKey, text: bytes) -> bytes:
    """ECDSA with SHA-384, 96 bytes."""
    halves = decode_dss_signature(key.sign(text, _SIGNED))
    return b"".join(half.to_bytes(_HALF, "big") for half in halves)


def verified(key: VerifyingKey, signature: bytes, text: bytes) -> bool:
    """Whether the holder of the key signed the text."""
    halves = signature[:_HALF], signature[_HALF:]
    try:
        r, s = (int.from_bytes(half, "big") for half in halves)
        key.verify(encode_dss_signature(r, s), text, _SIGNED)
    except InvalidSignature:
        return False
    return True


def commitment(secret: int) -> bytes:
    """What binds a client to a secret and tells nothing of it, as it is of 255 random bits."""
    return hashlib.sha256(b"rolora secure sum, own mask" + _bytes(secret)).digest()


def _derived(secret: bytes, use: bytes) -> bytes:
    kind = HKDF(hashes.SHA256(), length=32, salt=None, info=b"rolora secure sum, " + use)
    key: bytes = kind.derive(secret)
    return key


def _bytes(secret: int) -> bytes:
    return secret.to_bytes(BYTES, "big")
