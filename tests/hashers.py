"""How the tests hash passwords: as the product does, in a moment."""

from django.contrib.auth.hashers import PBKDF2PasswordHasher


class Quick(PBKDF2PasswordHasher):
    """Any process of ours can check what it makes; nobody has to be kept from guessing it."""

    iterations = 1
