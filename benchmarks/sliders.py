"""How long a slider takes from a key to the pixels, in Chromium, for each kind of board and from 64 to 512 pixels.

    python -m benchmarks.sliders [--presses 15]

Writes each board into a page that is opened as a file, presses keys in each of its sliders, and prints the median and
the 95th percentile in milliseconds, from the key on: until the board was drawn anew, and until the frame that shows it
was handed over, which waits for the next beat of the screen, up to 17 ms at 60 Hz. Keys come at any time between two
beats. What the page took until it could be used stands beside. Decoders are untrained, since their weights make no
difference to the time.
"""

import argparse
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

from vaelib import latent, pictures
from vaelib.pictures import live
from vaelib.spatial import ResidualDecoder, ResidualMaskDecoder
from vaelib.vae import Decoder, MaskDecoder

BROWSERS = "chromium", "chromium-browser", "google-chrome"
BOARD = "document.querySelector('.vaelib-live')?.board"
WATCH = f"""() => {{
  const board = {BOARD};
  window.took = new Promise((done) => addEventListener("keydown", ({{ timeStamp }}) => {{
    board.after = () => {{
      board.after = null;
      const drawn = performance.now() - timeStamp, {{ port1, port2 }} = new MessageChannel();
      port1.onmessage = () => done([drawn, performance.now() - timeStamp]); // a task after the frame was painted
      requestAnimationFrame(() => port2.postMessage(null));
    }};
  }}, {{ capture: true, once: true }}));
}}"""


def boards():
    """The boards by name."""
    rng = np.random.default_rng(0)
    for size, slices in ((64, 40), (512, 240)):
        scan = rng.integers(-200, 300, (slices, size, size), dtype=np.int16)
        mask = np.zeros(scan.shape, np.uint8)
        mask[:, size // 3 : size // 2, size // 3 : size // 2] = 1
        yield f"slices, {size} x {size} x {slices}", pictures.slice_browser(scan, mask, (3, 1, 1), mask)
    for size in (64, 256, 512):
        model, z = (Decoder(size, 1024 // size, 64), MaskDecoder(size, 1024 // size, 64)), latent.sample(500, 64)
        yield f"latent, vector, {size} x {size}", pictures.latent_explorer(model, z)
    model = ResidualDecoder(64, 8, 16, 8), ResidualMaskDecoder(64, 8, 16, 8)
    z = latent.sample(200, 1024).reshape(-1, 16, 8, 8)
    yield "latent, spatial, 64 x 64", pictures.latent_explorer(model, z)
    image, truth = rng.random((40, 64, 64)), np.indices((40, 64, 64)).sum(0) % 64 < 9
    yield "threshold, 64 x 64", pictures.threshold_explorer(image, image, truth)


def measure(tab, page, presses):
    """Milliseconds of each press in each slider of a page, to both ends, and the seconds until it could be used."""
    rng, step = random.Random(0), {"ArrowRight": "max", "ArrowLeft": "min"}
    begin = time.perf_counter()
    tab.goto(page.as_uri())
    tab.wait_for_function(f"{BOARD}?.draws > 0", timeout=120_000)
    opened, took = time.perf_counter() - begin, {}
    for slider in tab.get_by_role("slider").all():
        name = slider.evaluate("slider => slider.labels[0].innerText")
        if slider.is_disabled():
            continue
        slider.focus()
        key = "ArrowRight"
        for _ in range(presses + 3):  # the first ones are compiled
            if slider.evaluate(f"slider => slider.value === slider.{step[key]}"):
                key = "ArrowLeft" if key == "ArrowRight" else "ArrowRight"
            tab.evaluate(WATCH)
            time.sleep(rng.uniform(0, 1 / 60))
            tab.keyboard.press(key)
            took.setdefault(name, []).append(tab.evaluate("window.took"))
        took[name] = took[name][3:]
    return opened, took


def main():
    """Measure, and print a line for each board."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presses", type=int, default=15)
    presses = parser.parse_args().presses
    chromium = next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as folder:
        window = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for name, board in boards():
            page = Path(folder) / "page.html"
            page.write_text(
                f"<!doctype html><body>{live.place(board.content, board.at)}{live.module()}", encoding="utf-8"
            )
            tab = window.new_page(viewport={"width": 1200, "height": 900})
            opened, took = measure(tab, page, presses)
            both = [sorted(part) for part in zip(*sum(took.values(), []), strict=True)]
            drawn, seen = (f"{statistics.median(ms):3.0f} ms ({ms[int(0.95 * len(ms))]:.0f})" for ms in both)
            print(f"{name:26s} drawn {drawn}, on the screen {seen}; open in {opened:.1f} s", flush=True)
            tab.close()
        window.close()


if __name__ == "__main__":
    main()
