"""The pages of the documentation: their links lead somewhere, and the Chinese ones show what the English ones show."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
RESULTS = ROOT / "benchmarks" / "results"
IN_ENGLISH_ONLY = {"results.md", "speed.md"}
TRANSLATED = sorted(path.name for path in DOCS.glob("*.md") if path.name not in IN_ENGLISH_ONLY)
_BLOCK = re.compile(r"^```\w*\n.*?^```$", re.S | re.M)


def blocks(page: Path) -> list[str]:
    """The code of a page: commands, Python and what they print."""
    return _BLOCK.findall(page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    """The targets of its links, without those of the web."""
    prose = re.sub(r"`[^`]*`", "", _BLOCK.sub("", page.read_text(encoding="utf-8")))
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", prose) if "://" not in target]


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", _BLOCK.sub("", page.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page):
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists() or target.parent == RESULTS, link  # what is not measured yet is said by the page
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("name", TRANSLATED)
def test_a_page_and_its_chinese_sibling_show_the_same_code_and_name_each_other(name):
    english, chinese = DOCS / name, DOCS / "zh" / name
    assert blocks(chinese) == blocks(english)
    assert f"zh/{name}" in links(english) and f"../{name}" in links(chinese)


def test_the_chinese_overview_shows_code_of_the_readme_and_names_every_chinese_page():
    overview = DOCS / "zh" / "README.md"
    assert set(blocks(overview)) <= set(blocks(ROOT / "README.md"))
    assert set(TRANSLATED) <= set(links(overview)) and "docs/zh/README.md" in links(ROOT / "README.md")
    assert {path.name for path in overview.parent.glob("*.md")} == {"README.md", *TRANSLATED}
