"""Photograph a run in the MLflow UI with headless Chromium, for the pictures of the README.

    python docs/screenshots.py RUN [--uri sqlite:///mlruns/mlflow.db] [--out docs/images]
                               [--page explanations/RUN/index.html]

Needs Debian's ``chromium`` and ``chromium-driver`` and the ``docs`` extra. Exits with 1 where the
page does not show the charts or the maps.
"""

import argparse
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import cv2
import numpy as np
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from lit_imgproc.recipes.run import default_store
from lit_imgproc.tracking.records import artifact_file, find_run, run_url, ui_command

PORT = 5077
WIDTH, HEIGHT = 1000, 1250


def browser() -> webdriver.Chrome:
    """Headless Chromium that looks for nothing outside this machine."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
                 "disable-background-networking", "disable-component-update", "disable-sync",
                 "hide-scrollbars", f"window-size={WIDTH},{HEIGHT}"):  # fmt: skip
        options.add_argument(f"--{flag}")
    return webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))


def wait_for_server(url: str, process: "subprocess.Popen[bytes]") -> None:
    """Until the UI answers; a server that ended is an error."""
    for _ in range(120):
        try:
            urllib.request.urlopen(f"{url}/health", timeout=2).close()
            return
        except OSError:
            if process.poll() is not None:
                raise SystemExit("the MLflow UI ended before it answered") from None
            time.sleep(1)
    raise SystemExit("the MLflow UI did not answer within two minutes")


def part(driver: webdriver.Chrome, component: str) -> WebElement:
    """A part of MLflow's page by the name that MLflow gives it."""
    return driver.find_element(By.CSS_SELECTOR, f"[data-component-id='{component}']")


def heading(driver: webdriver.Chrome, text: str) -> WebElement | None:
    """The first heading of charts that begins with a text; None until it is shown."""
    found = driver.find_elements(By.XPATH, f"//*[starts-with(text(), '{text}')]")
    return next((one for one in found if one.is_displayed()), None)


def is_picture(element: WebElement) -> bool:
    """Whether an image of the page is one that the run has logged."""
    return "get-artifact" in (element.get_attribute("src") or "") and element.size["width"] > 100


def save(driver: webdriver.Chrome, path: Path, height: int) -> None:
    """Save the upper part of the window as a picture."""
    pixels = cv2.imdecode(np.frombuffer(driver.get_screenshot_as_png(), np.uint8), 1)
    cv2.imwrite(str(path), pixels[:height])


def stacked(parts: list[WebElement]) -> np.ndarray:
    """Pictures of parts of a page, one below the other on white."""
    shots = [cv2.imdecode(np.frombuffer(p.screenshot_as_png, np.uint8), 1) for p in parts]
    width = max(shot.shape[1] for shot in shots)
    margins = [((8, 8), (0, width - shot.shape[1]), (0, 0)) for shot in shots]
    return np.concatenate(
        [np.pad(s, m, constant_values=250) for s, m in zip(shots, margins, strict=True)]
    )


def main() -> None:
    """Start the UI, open the run's charts and its maps, and save a picture of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--uri", default=default_store())
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--page", type=Path, help="a page of `lit-imgproc explain`")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    server = f"http://127.0.0.1:{PORT}"
    process = subprocess.Popen(ui_command(arguments.uri, PORT), stderr=subprocess.DEVNULL)
    try:
        wait_for_server(server, process)
        driver = browser()
        wait = WebDriverWait(driver, 90)
        run = find_run(arguments.run, arguments.uri)
        page = run_url(run, server)
        images = artifact_file(run, "images", arguments.uri).glob("explanations~grad_cam+*.png")
        shutil.copy(
            max(images, key=lambda path: path.stat().st_mtime), arguments.out / "grad_cam.png"
        )
        shutil.copy(
            artifact_file(run, "figures/confusion_matrix.png", arguments.uri), arguments.out
        )

        if arguments.page is not None:
            driver.get(arguments.page.absolute().as_uri())
            table = driver.find_element(By.CSS_SELECTOR, "table.measures")
            cards = driver.find_elements(By.TAG_NAME, "article")[:2]
            cv2.imwrite(str(arguments.out / "explanations.png"), stacked([table, *cards]))

        driver.get(f"{page}/model-metrics")
        wait.until(lambda d: heading(d, "explanations"))
        part(driver, "mlflow.assistant.chat_panel.close").click()
        # Charts are drawn when they come into view; those of `explain/...` stand above.
        driver.execute_script("arguments[0].scrollIntoView()", heading(driver, "explanations"))
        wait.until(lambda d: d.find_elements(By.CSS_SELECTOR, "[role=slider]"))
        top = heading(driver, "explanations").location["y"]
        buttons = driver.find_elements(
            By.CSS_SELECTOR, "[data-component-id='fullscreen_button_chartcard']"
        )
        next(button for button in buttons if button.location["y"] > top).click()
        time.sleep(2)
        thumb = driver.find_elements(By.CSS_SELECTOR, "[role=slider]")[-1]
        track = thumb.find_element(By.XPATH, "./ancestor::*[@data-orientation][last()]")
        to_the_end = track.size["width"] // 2 - 2
        ActionChains(driver).move_to_element_with_offset(track, to_the_end, 0).click().perform()
        wait.until(lambda d: any(is_picture(i) for i in d.find_elements(By.TAG_NAME, "img")))
        time.sleep(2)
        save(driver, arguments.out / "maps.png", height=HEIGHT)
        driver.refresh()  # which closes the enlarged picture
        wait.until(lambda d: heading(d, "train"))
        # Charts of metrics come after those of images: a picture of what is further down.
        driver.execute_script("arguments[0].scrollIntoView()", heading(driver, "train"))
        wait.until(lambda d: len(d.find_elements(By.CSS_SELECTOR, ".scatterlayer path")) > 3)
        time.sleep(5)  # charts are drawn when they come into view
        save(driver, arguments.out / "charts.png", height=1000)
        driver.quit()
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
