"""The logbook page: Summary -> one HTML file, section by section (document.py), with its figures."""

from __future__ import annotations

from sweeps.page.document import write_page

__all__ = ["write_page"]
