"""Reports words that we no longer use in help texts, messages and documentation: `python -m tools.plain_words`.

Three kinds of text are checked: help texts (by walking the click commands), messages (string literals inside `raise`,
`Cause` and calls that print or log), and Markdown. Code, and literal text in backquotes, is not checked in Markdown.
Prints one line a fault, `PLACE: reason: TEXT`, and ends with exit code 1 if there are any.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import click

ROOT = Path(__file__).parent.parent
PACKAGES = ("sightline", "trainer", "converters", "edge", "examples")

# Places whose texts are still the old ones: a command ("sightline run"), a file, or a folder. They are being rewritten:
# delete an entry as soon as `python -m tools.plain_words` notes that its place is clean, and add none.
NOT_CLEAN_YET: tuple[str, ...] = ()

# (pattern, what to write instead); patterns ignore case
WORDS = (
    (r"\bpictures?\b", "image (frame only for a camera's)"),
    (r"\banew\b", "again"),
    (r"\bshall\b", "must, or the present tense"),
    (r"\bso many\b", "the number, with its unit"),
    (r"\bwho(ever)? (comes|looks|passes)\b", "the thing that acts"),
    (r"\bis there to\b", "the purpose"),
    (r"\bwhat is there\b", "the noun"),
    (r"\b(no|some)body (has )?look(s|ed)\b", "got an inference / got no inference"),
    (r"\blook(s|ed)? at\b", "process, or infer"),
    (r"\blooks? only\b", "run inference only"),
    (r"\blook(s|ed)? whether\b", "check whether"),
    (r"\bsay (which|another|it|as|where|so)\b", "pass, or state"),
    (r"\bmend(ed|s)?\b", "repair, or correct"),
    (r"\bone's own\b", "your own"),
    (r"\bsuffered\b", "the effect"),
    (r"\bfor want of\b", "because of"),
    (r"\bthe very (same|one)\b", "the same"),
    (r"\bwhat becomes? of\b", "the result"),
    (r"\bis (told|said)\b", "reports, or prints"),
    (r"\bto (say|tell)[.:;,]", "measure, or report"),
    (r"\bfrom .{1,30} on, not\b", "or more"),
)
HELP = (
    (r"\b[oO]f (it|them)\b", "name the thing"),
    (
        r"^(Of|The same|Such as|As|To|Whose|Its|Than) ",
        "start with the noun or verb",
    ),
    (r"^[a-z](?![\w-]*:)", "start with a capital letter"),  # but `classify: one label per image.`
    (r"[^.!?)]$|[^.!?]\)$", "end with a full stop"),
    (r"^(\S+ ?){1,2}$", "write a whole sentence"),
)
_PRINTS = re.compile(r"(Error|Cause|echo|warn|warning|error|log|say|fail|BadParameter|UsageError)$")
_SENTENCE_END = re.compile(r"[a-z0-9`)\"'%*][.!?] (?=[A-Z`*\"])")
_CODE = re.compile(r"^\s*\d+\. |(`+).+?\1|\]\([^)]*\)|<!--.*?-->")


class Fault(NamedTuple):
    """place: a command with its option, or a file with its line. text: the part that the reason is about."""

    place: str
    reason: str
    text: str


def text_faults(place: str, text: str, patterns: Sequence[tuple[str, str]] = WORDS) -> Iterator[Fault]:
    """The patterns that `text` matches."""
    for pattern, instead in patterns:
        if found := re.search(pattern, text, re.IGNORECASE if patterns is WORDS else 0):
            yield Fault(place, f"write {instead}" if patterns is WORDS else instead, found[0].strip()[-60:])


def help_faults(command: click.Command, context: click.Context, place: str) -> Iterator[Fault]:
    """Faults in the help of a command, of its options, and of its subcommands."""
    yield from text_faults(f"{place} --help", command.help or "")
    for parameter in command.params:
        if not isinstance(parameter, click.Option) or "--help" in parameter.opts:
            continue
        where = f"{place} {parameter.opts[0]}"
        text = (parameter.help or "").partition("  [default")[0].strip()
        if not text:
            yield Fault(where, "has no help text", "")
            continue
        yield from text_faults(where, text)
        yield from text_faults(where, text, HELP)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            if (sub := command.get_command(context, name)) is not None:
                yield from help_faults(sub, click.Context(sub, parent=context, info_name=name), f"{place} {name}")


def _name_of(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def literals(node: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, text) of the string literals below a node; the values inside an f-string count as `{}`."""
    if isinstance(node, ast.JoinedStr):
        parts = (str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values)
        yield node.lineno, "".join(parts)
        for value in node.values:
            if isinstance(value, ast.FormattedValue):
                yield from literals(value.value)
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            yield node.lineno, node.value
    else:
        for child in ast.iter_child_nodes(node):
            yield from literals(child)


def message_faults(place: str, source: str) -> Iterator[Fault]:
    """Faults in what Python code raises, prints and logs."""
    for line, text in sorted(
        {
            literal
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Raise) or (isinstance(node, ast.Call) and _PRINTS.search(_name_of(node)))
            for literal in literals(node)
        }
    ):
        yield from text_faults(f"{place}:{line}", text)


def document_faults(place: str, text: str) -> Iterator[Fault]:
    """Faults in the prose of a Markdown page: words, and more than one sentence on a line outside of tables."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            prose = _CODE.sub("`x`", line)
            yield from text_faults(f"{place}:{number}", prose)
            if not line.lstrip().startswith("|") and (end := _SENTENCE_END.search(prose)):
                yield Fault(f"{place}:{number}", "write one sentence a line", prose[: end.end()][-60:].strip())


def repository_faults() -> Iterator[Fault]:
    """All faults of this repository, those of `NOT_CLEAN_YET` included."""
    from sightline.cli import cli

    yield from help_faults(cli, click.Context(cli, info_name="sightline"), "sightline")
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield from message_faults(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]):
        yield from document_faults(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))


def is_below(place: str, entry: str) -> bool:
    """Whether a fault's place belongs to an entry of `NOT_CLEAN_YET`."""
    return place == entry or place.startswith((f"{entry} ", f"{entry}:", f"{entry.rstrip('/')}/"))


def main() -> int:
    """Prints the faults; the exit code."""
    faults = list(repository_faults())
    for entry in NOT_CLEAN_YET:
        if not any(is_below(fault.place, entry) for fault in faults):
            print(f"note: {entry} is clean: delete it from NOT_CLEAN_YET", file=sys.stderr)
    failed = [f for f in faults if not any(is_below(f.place, entry) for entry in NOT_CLEAN_YET)]
    for fault in failed:
        print(f"{fault.place}: {fault.reason}: {fault.text}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
