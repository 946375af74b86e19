"""The product's settings, with a key of the tests' own."""

import os

os.environ.setdefault("SECRET_KEY", "only for tests")

from config.settings import *  # noqa: F403
from config.settings import MIDDLEWARE

# It looks all static files up anew for each client of a test: half of what most requests cost.
# Browsers, which want static files, ask processes that have the product's settings.
MIDDLEWARE = [name for name in MIDDLEWARE if not name.startswith("servestatic.")]

# Made slow for those who guess: a fifth of a second for every person in a test.
PASSWORD_HASHERS = ["tests.hashers.Quick"]
