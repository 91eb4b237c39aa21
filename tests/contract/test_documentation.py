"""The documentation as a whole: its links lead somewhere, and the tree of docs/architecture.md has every file."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.plain_words import literals

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PACKAGES = ("sightline", "trainer", "converters", "edge", "device_configs")


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def tree(text: str) -> Iterator[str]:
    """The paths that the tree names: a folder ends in a slash, and what is in it is indented below it."""
    folders: list[str] = []
    for line in text.splitlines():
        if match := re.match(r"((?:  )*)(\S+)", line):
            depth = len(match[1]) // 2
            folders[depth:] = [match[2]]
            if not match[2].endswith("/"):
                yield "".join(folders)


def listed() -> set[str]:
    block = (ROOT / "docs" / "architecture.md").read_text().partition("## Every file")[2].split("```")[1]
    return set(tree(block))


def existing() -> set[str]:
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file())
    return {
        str(path.relative_to(ROOT)) for path in files if path.name != "__init__.py" and "__pycache__" not in path.parts
    }


def test_the_tree_is_read_with_its_folders() -> None:
    assert set(tree("edge/   x\n  a.py   x\n  web/   x\n    b.js\n  c.py")) == {
        "edge/a.py",
        "edge/web/b.js",
        "edge/c.py",
    }


def test_every_file_of_the_packages_is_in_the_tree_of_the_architecture_page() -> None:
    assert existing() - listed() == set()


def test_every_file_of_that_tree_exists() -> None:
    assert listed() - existing() == set()


def test_the_arrows_between_folders_are_those_of_the_import_contracts() -> None:
    contracts = (ROOT / "pyproject.toml").read_text()
    block = (ROOT / "docs" / "architecture.md").read_text().partition("## Arrows")[2].split("```")[1].strip("\n")
    heading, *lines = block.splitlines()
    middle = heading.index("converters/")
    for container, column in {"edge": slice(middle), "converters": slice(middle, None)}.items():
        layers = re.search(rf'containers = \["{container}"\].*?layers = \[(.*?)\]', contracts, re.DOTALL)
        assert layers is not None
        assert [line[column].strip() for line in lines if line[column].strip()] == re.findall('"(.*?)"', layers[1])


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", prose(page)):
        path = (page.parent / target) if target else page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path), f"{target}#{anchor}"


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    pages = [page.name for page in (ROOT / "docs").glob("*.md") if page.name != "README.md"]
    assert [name for name in pages if f"]({name}" not in index] == []


# headings of docs/troubleshooting.md that other programs write, or that the code puts together of several texts
FROM_ELSEWHERE = {
    "not a bundle: manifest.json cannot be read", "not valid YAML: line ..: mapping values are not allowed here",
    "Missing option '--device'.", "No such option '--resize'", "picamera: no frame for 3 s",
    "the camera driver blocked for", "the network library blocked for", "${NAME} is not set", "refused: not authorized",
    "Connection refused", "unavailable", "pip failed", "No space left", "Killed", "undervoltage since it was started",
    "throttled now", "--on, --zone, --line", "YUYV 1280x720@10", "not inferred", "frozen",
}  # fmt: skip


def messages() -> str:
    """All string literals of the programs, and the scripts that are not Python."""
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if "__pycache__" not in path.parts]
    python = [text for path in paths if path.suffix == ".py" for _, text in literals(ast.parse(path.read_text()))]
    return "\n".join([*python, *(path.read_text() for path in paths if path.suffix in (".js", ".html", ".sh"))])


def test_the_literal_headings_of_the_troubleshooting_page_are_messages_of_the_programs() -> None:
    headings = re.findall("^### (.*)$", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    quoted = [text for heading in headings for text in re.findall("`([^`]+)`", heading)]
    assert len(quoted) > 50
    known = messages()
    parts = {text: [part.strip() for part in text.split("..")] for text in quoted if text not in FROM_ELSEWHERE}
    assert [text for text, pieces in parts.items() if not all(piece in known for piece in pieces)] == []
