"""How many examples a law runs over where one example costs more, or tells less, than usual."""

from hypothesis import settings


def of_fifty(count: int) -> int:
    """So many where the profile runs 50, and in proportion where it runs others: never none."""
    return -(-count * settings.default.max_examples // 50)
