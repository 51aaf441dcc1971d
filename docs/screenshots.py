"""Takes the pictures of docs/images from the pages of finished runs, in a real Chromium.

    python docs/screenshots.py work/runs/demo      the run that is shown (make screenshots)

Needs playwright (in the `dev` extra) and a Chromium: /usr/bin/chromium, or what CHROMIUM names.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from limbeck.report.runs import read_runs, runs_page

IMAGES = Path(__file__).resolve().parent / "images"
MAX_BYTES = 200_000
COLOURS = 96
DESKTOP, PHONE = (1200, 860), (390, 800)
SHOTS: tuple[tuple[str, str, tuple[int, int], str], ...] = (
    ("report-verdict", "", DESKTOP, "light"),
    ("report-failures", "#failures", DESKTOP, "light"),
    ("report-gallery", "#view=diff&sort=gap", DESKTOP, "dark"),
    ("report-phone", "", PHONE, "dark"),
)
"""Name, what follows the page's address, the window, the colour scheme."""


def main() -> None:
    """Take them all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a run, work/runs/NAME")
    run: Path = parser.parse_args().run.resolve()
    work = run.parents[1]
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        runs = Path(folder) / "runs.html"
        runs.write_text(runs_page(read_runs(work), runs, work), encoding="utf-8")
        path = os.environ.get("CHROMIUM", "/usr/bin/chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for name, state, window, scheme in SHOTS:
            take(browser, run / "report" / "index.html", state, name, window, scheme)
        take(browser, runs, "", "runs", DESKTOP, "light")
        browser.close()


def take(
    browser: Browser, page: Path, state: str, name: str, window: tuple[int, int], scheme: Any
) -> None:
    """One picture, of few colours so that it stays small."""
    size = {"width": window[0], "height": window[1]}
    tab = browser.new_page(viewport=size, color_scheme=scheme, reduced_motion="reduce")
    tab.goto(page.as_uri() + state)
    tab.wait_for_timeout(400)
    shot = Image.open(io.BytesIO(tab.screenshot())).convert("RGB")
    target = IMAGES / f"{name}.png"
    shot.quantize(COLOURS, dither=Image.Dither.NONE).save(target, optimize=True)
    tab.close()
    if (taken := target.stat().st_size) > MAX_BYTES:
        raise SystemExit(f"{target} has {taken:,} bytes, above {MAX_BYTES:,}")
    print(f"{target.relative_to(Path.cwd())}  {taken:,} bytes")


if __name__ == "__main__":
    main()
