"""How many of something, as people read it."""


def count(number: int, name: str, names: str = "") -> str:
    """Such as ``1 dock`` and ``2,000 docks``; ``names`` is for more than an s at the end."""
    return f"{number:,} {name if number == 1 else names or f'{name}s'}"
