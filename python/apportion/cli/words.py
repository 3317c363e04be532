"""Numbers in messages. Standard library alone."""


def counted(count: int, noun: str) -> str:
    """`1 tree`, `2 trees`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
