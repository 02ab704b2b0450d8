"""What all entry points share: logging, progress bars, and how an error leaves the program.

Exit codes: 0 all done; 1 some items of a batch failed, the rest is finished; 2 nothing could be done, the reason is one
line on stderr; 130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn, TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from basicsr.utils.errors import UserError

Item = TypeVar("Item")


def run_main(main: Callable[[list[str] | None], int | None]) -> NoReturn:
    """Run `main(None)` and leave with the exit code of the table above."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        with logging_redirect_tqdm():
            code = main(None)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    sys.exit(code or 0)


def progress(iterable: Iterable[Item] | None = None, total: int | None = None, desc: str = "") -> tqdm[Item]:
    """A progress bar on stderr, for every loop that a person waits for."""
    return tqdm(iterable, total=total, desc=desc, dynamic_ncols=True, smoothing=0.1)
