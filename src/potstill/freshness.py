"""Compiled code on disk is thrown away when any source that it was made of has changed.

numba keeps machine code beside each file and looks at the age of that file alone. A loop that calls a function of
another file would go on with the old one, without a word, after that file was edited or updated in place.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path


def forget_stale(folder: Path, *others: Path) -> bool:
    """Delete numba's files of a package folder if its sources are not those that they were made from.

    Call it when the package is imported, before anything compiled is called.

    Parameters
    ----------
    folder : Path
        Where the machine code's entry points are.
    *others : Path
        Further folders and files whose compiled functions those call.

    Returns
    -------
    bool
        Whether anything was forgotten. A folder that may not be written is left alone: nobody edits it either.
    """
    content = hashlib.sha256()
    for place in (folder, *others):
        for source in sorted(place.glob("*.py")) if place.is_dir() else [place]:
            text = source.read_bytes()
            if b"numba" in text:  # the others do not end up in machine code
                content.update(f"{source.parent.name}/{source.name}".encode() + b"\0" + text)
    cache = folder / "__pycache__"
    mark = cache / "sources.sha256"
    with suppress(OSError):
        if mark.exists() and mark.read_text() == content.hexdigest():
            return False
        cache.mkdir(exist_ok=True)
        for stale in [*cache.glob("*.nbi"), *cache.glob("*.nbc")]:
            stale.unlink(missing_ok=True)
        mark.write_text(content.hexdigest())
        return True
    return False
