"""Names that come from data, files and recipes, made safe for where they are shown.

A class may be called `a|b`, `<script>`, `[/b]` or `$x$`, and a folder may have a line break in its name.
"""

from rich.text import Text

_MARKDOWN = str.maketrans({character: f"&#{ord(character)};" for character in "|<>[]`*\\"})


def printable(name: object) -> str:
    r"""One line without control characters (escape codes of a terminal among them).

    >>> printable("two\nlines")
    'two lines'
    """
    return "".join(character if character.isprintable() else " " for character in str(name))


def in_markdown(name: object) -> str:
    """For running text and cells of a table: what would be markup becomes a character reference.

    >>> in_markdown("<b>|Eat_meat")
    '&#60;b&#62;&#124;Eat_meat'
    """
    return printable(name).translate(_MARKDOWN)


def in_terminal(name: object) -> Text:
    """For rich, which reads `[...]` in plain strings as markup."""
    return Text(printable(name))


def in_figure(name: object) -> str:
    r"""For matplotlib, which reads `$...$` as mathematics.

    >>> in_figure("a$b$")
    'a\\$b\\$'
    """
    return printable(name).replace("$", r"\$")
