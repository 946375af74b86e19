"""What commands print."""

from console.terminal import visible


def test_what_would_steer_a_terminal_is_not_printed() -> None:
    assert visible("a\x1b[31mb\u202ec") == "a�[31mb�c"
