"""How people name a firmware version to a command."""

import argparse

from fleet import versions


def firmware_version(text: str) -> str:
    """The type of an argument that is a firmware version, in canonical form; empty stays empty."""
    try:
        return versions.canonical(text) if text else ""
    except versions.InvalidVersion as error:
        raise argparse.ArgumentTypeError(str(error)) from error
