"""A real browser, and a run of two starts to look at.

Needs Chromium (Debian: apt-get install --no-install-recommends chromium) and the extra `browser`;
without them the tests are skipped, or fail if BIOMAMBA_REQUIRE_BROWSER=1. The pictures are kept in
the folder that BIOMAMBA_SCREENSHOTS names.
"""

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import pytest
from omegaconf import OmegaConf

from biomamba import train
from biomamba.config.compose import compose_config
from biomamba.runtime.random_state import seed_everything

NUM_STEPS, STOP = 24, 10
SETTINGS = (
    "data=embedded_stream",
    f"max_tokens={NUM_STEPS * 512}",
    "tokens_per_step=512",
    "data.budget.seq_len=64",
    "data.budget.micro_batch_size=8",
    "data.max_val_documents=2",
    "model.config.d_model=32",
    "model.config.n_layer=2",
    "optimizer.lr=1e-2",
    "trainer.val_check_interval=4",
    "trainer.log_every_n_steps=1",
    "callbacks=[default,_samples,_histograms]",
    "callbacks.checkpoint.every_n_steps=2",
    "callbacks.throughput.every_n_steps=2",
    "callbacks.progress=null",
    "callbacks.preemption=null",
    "run_id=x",
)

_PATIENCE_MS = 120_000  # for a machine with much else to do


class Screen:
    """A browser and the folder of its pictures."""

    def __init__(self, chromium: Any, pictures: Path) -> None:
        self._chromium, self._pictures = chromium, pictures

    def open(self, **options: Any) -> "Window":
        """Open a page of its own, with options of a Playwright page."""
        return Window(self._chromium.new_page(**options), self._pictures)


class Window:
    """A page, with everything that went wrong in it and every address it asked for."""

    def __init__(self, page: Any, pictures: Path) -> None:
        self.page, self._pictures = page, pictures
        self.errors: list[str] = []
        self.asked: list[str] = []
        page.set_default_timeout(_PATIENCE_MS)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("requestfailed", lambda request: self.errors.append(request.url))
        page.on("request", lambda request: self.asked.append(request.url))

    def wait_for(self, *texts: str) -> None:
        """Wait until all texts are shown, also those in shadow trees."""
        script = f"(wanted) => {{ const shown = ({_SHOWN})(); "
        script += "return wanted.every(text => shown.includes(text)); }"
        try:
            self.page.wait_for_function(script, arg=list(texts))
        except Exception as error:  # Playwright's own timeout says nothing of the page
            shown = self.page.evaluate(_SHOWN)
            missing = [text for text in texts if text not in shown]
            raise AssertionError(f"not shown: {missing}; shown: {shown[:3000]}") from error

    def count(self, selector: str) -> int:
        """Return how many elements there are, also in shadow trees."""
        found: int = self.page.locator(selector).count()
        return found

    def picture(self, name: str, **options: Any) -> None:
        """Take a picture."""
        self.page.screenshot(path=self._pictures / f"{name}.png", **options)


_SHOWN = """() => { const found = []; const walk = (node) => {
  if (node.shadowRoot) walk(node.shadowRoot);
  for (const child of node.childNodes) {
    if (child.nodeType === 3) {
      if (!['STYLE', 'SCRIPT', 'TEMPLATE'].includes(node.nodeName)) found.push(child.textContent);
    } else walk(child); } };
  walk(document.body); return found.join(' ').replace(/\\s+/g, ' '); }"""


@pytest.fixture(scope="session")
def screen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Screen]:
    """Start Chromium."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    missing = [] if program else ["chromium"]
    missing += [] if importlib.util.find_spec("playwright") else ["playwright (extra: browser)"]
    if missing:
        reason = f"not installed: {', '.join(missing)}"
        if os.environ.get("BIOMAMBA_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    named = os.environ.get("BIOMAMBA_SCREENSHOTS")
    pictures = Path(named) if named else tmp_path_factory.mktemp("pictures")
    pictures.mkdir(parents=True, exist_ok=True)
    arguments = ["--disable-gpu", "--disable-dev-shm-usage"]
    arguments += ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=arguments)
        yield Screen(chromium, pictures)
        chromium.close()


class _Defect(Exception):  # noqa: N818 - the record of the run names it
    pass


class _StopBefore(lightning.Callback):
    """Stops a run before a step, like a defect."""

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == STOP + 1:  # a step after the checkpoint, which is made again
            raise _Defect("as of the test")


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train on two sources with texts and histograms; stopped once, and resumed."""
    folder = tmp_path_factory.mktemp("runs") / "adapt"
    cfg = compose_config("train", [*SETTINGS, f"paths.run_dir={folder}"])
    (folder / ".hydra").mkdir(parents=True)  # as the program keeps its settings
    OmegaConf.save(cfg, folder / ".hydra" / "config.yaml")
    build_callbacks = train.build_callbacks
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            train, "build_callbacks", lambda *given: [*build_callbacks(*given), _StopBefore()]
        )
        seed_everything(cfg.seed)
        with pytest.raises(_Defect):
            train.train(cfg)
    seed_everything(cfg.seed)
    train.train(cfg)
    return folder
