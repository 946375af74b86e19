"""The product's settings, with a key of the tests' own."""

import os

os.environ.setdefault("SECRET_KEY", "only for tests")

from config.settings import *  # noqa: F403
