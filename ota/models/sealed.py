"""A column whose values lie encrypted in the database, so that a copy of it tells none of them."""

import base64
import functools
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import models

# The library takes 6 MB of each process, and few ever open a value: it is imported where it is used.
if TYPE_CHECKING:
    from cryptography.fernet import Fernet


class SealedField(models.CharField[str, str]):
    """A text under a key made from ``SECRET_KEY``; empty where another key sealed it.

    Each write of a value differs, so it cannot be searched for.
    """

    def get_prep_value(self, value: Any) -> Any:
        return None if value is None else seal(str(value))

    def from_db_value(self, value: str | None, *args: object) -> str | None:
        return None if value is None else opened(value)


def seal(text: str) -> str:
    return _fernet(settings.SECRET_KEY).encrypt(text.encode()).decode()


def opened(sealed: str) -> str:
    from cryptography.fernet import InvalidToken

    try:
        return _fernet(settings.SECRET_KEY).decrypt(sealed).decode()
    except InvalidToken:
        return ""


@functools.cache
def _fernet(secret_key: str) -> "Fernet":
    from cryptography.fernet import Fernet
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    key = HKDF(SHA256(), 32, salt=None, info=b"fleet-ota sealed columns").derive(
        secret_key.encode()
    )
    return Fernet(base64.urlsafe_b64encode(key))
