"""Draw the README's picture from a finished run: python scripts/readme_picture.py runs/demo docs/images/nickel.png."""

import io
import sys
from pathlib import Path

from PIL import Image

from potstill.reporting.page import draw, gather


def main(run: str, picture: str) -> None:
    """Stack the pool's map and the crystals' figure."""
    made = draw(Path(run), gather(Path(run)))
    panels = [Image.open(io.BytesIO(made[name].png())) for name in ("coverage", "polymorphs")]
    width = max(p.width for p in panels)
    panels = [p.resize((width, round(p.height * width / p.width))) if p.width > 1.2 * width else p for p in panels]
    sheet = Image.new("RGB", (width, sum(p.height for p in panels) + 20), "white")
    top = 0
    for p in panels:
        sheet.paste(p, ((width - p.width) // 2, top))
        top += p.height + 20
    Path(picture).parent.mkdir(parents=True, exist_ok=True)
    sheet.save(picture, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
