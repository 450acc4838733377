"""Rules outside edgepep, "package.module:Name": code, imported where the user names it, never because a file does."""

from collections.abc import Collection

from edgepep.errors import EdgepepError


def is_outside(name: str) -> bool:
    """Whether a name has the form "package.module:Name"; nothing is imported."""
    module, colon, attribute = name.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), attribute))


def names_in(words: str | None) -> set[str]:
    """Names in what the user wrote, with commas between."""
    return {name.strip() for name in words.split(",")} if words else set()


def refuse_unnamed(
    file: object, rule: str, named: Collection[str], kind: type[EdgepepError], option: str = "--rule"
) -> None:
    """Raise an error of some kind for a rule outside edgepep that a file names and the user does not."""
    if ":" in rule and rule not in named:
        raise kind(
            f"{file} names the rule {rule!r}, which is code outside edgepep and is not imported because a file says "
            f"so. If you trust it, name it yourself: {option} {rule}"
        )
