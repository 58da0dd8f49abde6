"""A tab of a browser, and all that must never happen in it."""

from attrs import define, field
from playwright.sync_api import Page, expect

PATIENCE = 20_000
"""Milliseconds that the page has for anything; none of these tests waits for so long."""


@define
class Tab:
    """A tab with the dashboard in it. What went wrong in it is collected, and must be nothing."""

    page: Page
    wrong: list[str] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.page.set_default_timeout(PATIENCE)
        self.page.on("dialog", lambda dialog: self.wrong.append(f"dialog {dialog.message}"))
        self.page.on("pageerror", lambda error: self.wrong.append(f"error {error}"))
        self.page.on("console", lambda message: self._hear(message.type, message.text))

    def _hear(self, kind: str, text: str) -> None:
        if kind == "error" and not text.startswith("Failed to load resource"):
            self.wrong.append(text)

    def shows_run(self, status: str) -> None:
        expect(self.page.locator(".status-big")).to_contain_text(status)

    def fits(self) -> None:
        """Check that nothing has to be scrolled to the side."""
        widths = self.page.evaluate(
            "() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert widths[0] <= widths[1], self.page.url
