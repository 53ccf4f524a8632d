"""What the site has beside the pages of this folder: the README and its kin, and references made from the code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

REPO = Path(__file__).resolve().parents[1]
KIN = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
PLAIN = ("CITATION.cff", "benchmarks", "examples")  # of the repository, and no pages of the site


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made."""
    pages = {page: _kin(name) for name, page in KIN.items()}
    pages |= {"reference/commands.md": _commands(), "reference/configuration.md": _configuration()}
    pages |= {"reference/python.md": _python(), "python.md": _notebook(REPO / "docs" / "python.ipynb")}
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    return files


def _kin(name: str) -> str:
    """Return a page of the repository's root, with its links led to the site's pages."""
    text = (REPO / name).read_text(encoding="utf-8")

    def lead(match: re.Match[str]) -> str:
        words, target = match[1], match[2]
        file, hash_, part = target.partition("#")
        if file in PLAIN:
            return words
        page = KIN.get(file, file.removeprefix("docs/").replace(".ipynb", ".md"))
        return f"[{words.removeprefix('docs/')}]({page}{hash_}{part})"

    return re.sub(r"\[((?:[^\[\]]|\n)*)\]\(([^()\s]+)\)", lead, text)


def _commands() -> str:
    """Return every command with its arguments and options."""
    import typer

    from potstill.cli import app

    lines = ["# Commands", "", "Every command has `--help`. What it means by exit codes is below.", ""]

    def tell(command: Any, name: str) -> None:
        if hasattr(command, "commands"):
            for word, below in sorted(command.commands.items()):
                tell(below, f"{name} {word}")
            return
        lines.extend([f"## `{name}`", "", (command.help or "").strip(), ""])
        rows = []
        for p in command.params:
            if p.name == "help":
                continue
            kind = p.param_type_name == "argument"
            words = p.name.upper() if kind else ", ".join((*p.opts, *p.secondary_opts))
            default = (
                "" if p.required or p.default in (None, False, "", ()) or callable(p.default) else f"`{p.default}`"
            )
            needed = "needed" if p.required else default
            rows.append(f"| `{words}` | {(p.help or '').replace('|', '·')} | {needed} |")
        if rows:
            lines.extend(["| | | default |", "|---|---|---|", *rows, ""])

    tell(typer.main.get_command(app), "potstill")
    lines += ["## Exit codes", "", "| code | means |", "|---|---|"]
    from potstill import errors

    kinds = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.PotstillError)]
    for cls in sorted(kinds, key=lambda c: c.exit_code):
        lines.append(f"| {cls.exit_code} | {(cls.__doc__ or '').strip().splitlines()[0]} |")
    return "\n".join(lines) + "\n"


def _configuration() -> str:
    """Return every key with its default and sentence."""
    from potstill.config import knobs, sections

    about = (
        "TOML; `potstill config template` writes one with all keys, `potstill config schema` a JSON Schema for "
        "editors. Any key can be given on the command line: `--set distil.budget=300`."
    )
    lines = ["# Configuration", "", about, ""]
    section = None
    for key, default, sentence in knobs():
        own, dot, name = key.partition(".")
        if (own if dot else "") != section:
            section = own if dot else ""
            about = (sections()[section].__doc__ or "").strip() if section else "At the top of the file."
            lines += [
                "",
                f"## `[{section}]`" if section else "## Top",
                "",
                about,
                "",
                "| key | default | |",
                "|---|---|---|",
            ]
        shown = json.dumps(default, ensure_ascii=False, default=str).replace("|", "\\|")
        lines.append(f"| `{name or own}` | `{shown}` | {sentence.replace('|', '·')} |")
    return "\n".join(lines) + "\n"


def _notebook(file: Path) -> str:
    """Return an executed notebook as a page: what was run, and what came of it."""
    parts = []
    for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "text/html" in data:
                parts.append(f'<div class="output" markdown="0">{"".join(data["text/html"])}</div>')
            else:
                parts.append(f"```text\n{''.join(output.get('text') or data.get('text/plain', '')).rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def _python() -> str:
    """Return the public names."""
    import potstill

    lines = ["# Python", "", "What `import potstill` offers; names load when they are first used.", ""]
    for name in potstill.__all__:
        home = getattr(potstill, name).__module__
        lines += [f"::: {home}.{name}", "    options:", "      show_root_full_path: false", ""]
    return "\n".join(lines)
