"""What is taken from the package ``cryptography``, and what for: the only place that imports it."""

from __future__ import annotations

import hashlib
from typing import TypeAlias

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from rolora.secure.fixed import Numbers
from rolora.secure.forms import BadForm
from rolora.secure.shamir import BYTES

PrivateKey: TypeAlias = X25519PrivateKey
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


def commitment(secret: int) -> bytes:
    """What binds a client to a secret and tells nothing of it, as it is of 255 random bits."""
    return hashlib.sha256(b"rolora secure sum, own mask" + _bytes(secret)).digest()


def _derived(secret: bytes, use: bytes) -> bytes:
    kind = HKDF(hashes.SHA256(), length=32, salt=None, info=b"rolora secure sum, " + use)
    key: bytes = kind.derive(secret)
    return key


def _bytes(secret: int) -> bytes:
    return secret.to_bytes(BYTES, "big")
