"""Log lines on the terminal that keep clear of a live progress bar."""

import logging
import sys
from typing import TextIO


class StdoutHandler(logging.StreamHandler):
    """Writes to whatever ``sys.stdout`` is at the moment: while Rich shows a bar, its own, which prints above it."""

    def __init__(self, stream: TextIO | None = None) -> None:
        logging.Handler.__init__(self)  # ``stream``, which Hydra's configuration gives, is not kept

    @property
    def stream(self) -> TextIO:
        return sys.stdout
