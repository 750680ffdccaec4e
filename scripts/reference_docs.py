"""Write docs/reference from the argument specs and the plugins' documentation:   python scripts/reference_docs.py

What ansible-doc says, as Markdown: one page a role, module and filter. Nothing is written by hand in that folder;
tests/unit/test_reference_docs.py checks that it is current.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
COLLECTION = "steadfast.vllm"
KINDS = {"role": "roles", "module": "modules", "filter": "filters"}

# Markup of Ansible's documentation: O(option), V(value), RV(return), M(module), P(plugin#type), L(text, URL), ...
MARKUP = re.compile(r"\b(RV|[BCEILMOPRUV])\(((?:\\.|[^()\\]|\([^()]*\))*)\)")


def markdown(text: str) -> str:
    """One paragraph of Ansible's markup as Markdown."""

    def replace(found: re.Match[str]) -> str:
        kind, content = found[1], re.sub(r"\\(.)", r"\1", found[2])
        if kind == "B":
            return f"**{content}**"
        if kind == "I":
            return f"*{content}*"
        if kind == "U":
            return f"<{content}>"
        if kind in "LR":
            label, _sep, target = content.partition(",")
            return f"[{label.strip()}]({target.strip()})" if kind == "L" else label.strip()
        if kind in ("O", "RV"):
            # Whose option it is (fqcn#type: before, #type after the name) is clear from the page.
            content = re.sub(r"^[\w.]+#\w+:|#\w+(?==|$)", "", content)
        return reference(content) if kind in "MP" else f"`{content}`"

    return MARKUP.sub(replace, text).replace("HORIZONTALLINE", "\n---\n")


def reference(content: str) -> str:
    """A plugin's name, with a link if it is one of this collection."""
    fqcn, _hash, kind = content.partition("#")
    folder = KINDS.get(kind or "module")
    if folder and fqcn.startswith(COLLECTION + "."):
        return f"[{fqcn}](../{folder}/{fqcn.removeprefix(COLLECTION + '.')}.md)"
    return f"`{fqcn}`"


def paragraphs(value: str | Iterable[str] | None) -> list[str]:
    if value is None:
        return []
    return [markdown(text).strip() for text in ([value] if isinstance(value, str) else value)]


def cell(texts: Iterable[str]) -> str:
    return "<br>".join(text.replace("\n", " ").replace("|", "\\|") for text in texts if text)


def literal(value: object) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)


def option_rows(options: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Rows of a table; an option within an option is named by its path."""
    for name, option in options.items():
        kind = str(option.get("type", "str"))
        if option.get("elements"):
            kind += f" of {option['elements']}"
        facts = [kind]
        if option.get("required"):
            facts.append("**required**")
        elif option.get("default") is not None:
            facts.append(f"default `{literal(option['default'])}`")
        if option.get("choices"):
            facts.append("one of " + ", ".join(f"`{literal(choice)}`" for choice in option["choices"]))
        if option.get("aliases"):
            facts.append("also " + ", ".join(f"`{alias}`" for alias in option["aliases"]))
        yield f"| `{prefix}{name}` | {cell(facts)} | {cell(paragraphs(option.get('description')))} |"
        yield from option_rows(option.get("suboptions") or option.get("options") or {}, f"{prefix}{name}.")


def return_rows(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        kind = str(value.get("type", "raw"))
        if value.get("elements"):
            kind += f" of {value['elements']}"
        facts = [kind, markdown(f"returned {value['returned']}") if value.get("returned") else ""]
        texts = paragraphs(value.get("description"))
        if "sample" in value:
            texts.append(f"Example: `{literal(value['sample'])}`")
        yield f"| `{prefix}{name}` | {cell(facts)} | {cell(texts)} |"
        yield from return_rows(value.get("contains") or {}, f"{prefix}{name}.")


def table(heads: tuple[str, str, str], rows: Iterable[str]) -> list[str]:
    return [f"| {' | '.join(heads)} |", "|---|---|---|", *rows, ""]


def section(title: str, lines: Iterable[str]) -> list[str]:
    return [f"## {title}", "", *lines]


def options_table(options: dict[str, Any] | None, head: str) -> list[str]:
    return table((head, "Type and default", "What it is"), option_rows(options)) if options else ["None.", ""]


def separated(texts: Iterable[str]) -> list[str]:
    return [line for text in texts for line in (text, "")]


def plugin_page(fqcn: str, kind: str, plugin: dict[str, Any]) -> str:
    doc = plugin["doc"]
    lines = [f"# {fqcn} ({kind})", "", f"{markdown(doc['short_description']).rstrip('.')}.", ""]
    lines += separated(paragraphs(doc.get("description")))
    if doc.get("requirements"):
        lines += section("Requirements", [*(f"- {text}" for text in paragraphs(doc["requirements"])), ""])
    lines += section("Options", options_table(doc.get("options"), "Option"))
    if doc.get("attributes"):
        rows = (
            f"| {name} | {about.get('support', '')} | {cell(paragraphs(about['description']))} |"
            for name, about in doc["attributes"].items()
        )
        lines += section("Attributes", table(("Attribute", "Support", "Meaning"), rows))
    if doc.get("notes"):
        lines += section("Notes", [*(f"- {text}" for text in paragraphs(doc["notes"])), ""])
    if plugin.get("examples"):
        lines += section("Examples", ["```yaml", plugin["examples"].strip(), "```", ""])
    if plugin.get("return"):
        lines += section("Return values", table(("Key", "Type", "What it is"), return_rows(plugin["return"])))
    return "\n".join(lines).rstrip() + "\n"


def role_page(fqcn: str, role: dict[str, Any]) -> str:
    lines = [f"# {fqcn} (role)", ""]
    points = role["entry_points"]
    for point in sorted(points, key=lambda name: (name != "main", name)):
        about = points[point]
        if point != "main":
            lines += [f"## Entry point `{point}`", "", f"`tasks_from: {point}`", ""]
        lines += [f"{markdown(about.get('short_description', '')).rstrip('.')}.", ""]
        lines += separated(paragraphs(about.get("description")))
        lines += section("Variables" if point == "main" else f"Variables of `{point}`", [])
        options = about.get("options")
        if point != "main" and options and options == points.get("main", {}).get("options"):
            lines += ["Those of the main entry point.", ""]
        else:
            lines += options_table(options, "Variable")
    return "\n".join(lines).rstrip() + "\n"


def dump() -> dict[str, dict[str, Any]]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    environment["ANSIBLE_COLLECTIONS_PATH"] = str(ROOT / ".collections")
    environment["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
    command = [str(Path(sys.prefix, "bin", "ansible-doc")), "--metadata-dump", "--no-fail-on-errors", COLLECTION]
    said = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
    everything: dict[str, dict[str, Any]] = json.loads(said)["all"]
    broken = [
        f"{kind} {fqcn}: {about['error']}"
        for kind in KINDS
        for fqcn, about in everything.get(kind, {}).items()
        if "error" in about
    ]
    if broken:
        sys.exit("\n".join(["ansible-doc cannot read:", *broken]))
    return everything


def render() -> dict[str, str]:
    """Text of each page by its path within docs/reference."""
    everything = dump()
    pages: dict[str, str] = {}
    index = ["# Reference", "", "Made by `make docs` from the argument specs and the plugins' documentation.", ""]
    for kind, folder in KINDS.items():
        index += [f"## {folder.capitalize()}", "", f"| {kind.capitalize()} | What it does |", "|---|---|"]
        for fqcn, about in sorted(everything.get(kind, {}).items()):
            page = f"{folder}/{fqcn.removeprefix(COLLECTION + '.')}.md"
            pages[page] = role_page(fqcn, about) if kind == "role" else plugin_page(fqcn, kind, about)
            main = about["entry_points"].get("main", {}) if kind == "role" else about["doc"]
            index.append(f"| [{fqcn}]({page}) | {cell(paragraphs(main.get('short_description')))} |")
        index.append("")
    pages["README.md"] = "\n".join(index).rstrip() + "\n"
    return pages


def differences() -> list[str]:
    """What `make docs` would change, one line a page."""
    pages = render()
    there = {str(file.relative_to(REFERENCE)): file.read_text() for file in REFERENCE.rglob("*.md")}
    missing = [f"{page}: missing" for page in pages.keys() - there.keys()]
    stale = [f"{page}: out of date" for page in pages.keys() & there.keys() if pages[page] != there[page]]
    left = [f"{page}: nothing that it describes is left" for page in there.keys() - pages.keys()]
    return sorted(missing + stale + left)


def main() -> None:
    pages = render()
    for file in REFERENCE.rglob("*.md"):
        if str(file.relative_to(REFERENCE)) not in pages:
            file.unlink()
    for page, text in pages.items():
        file = REFERENCE / page
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    print(f"docs/reference: {len(pages)} pages")


if __name__ == "__main__":
    main()
