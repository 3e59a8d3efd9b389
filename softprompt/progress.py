"""Progress of long work: by default a bar where somebody looks, be it a terminal or a notebook."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Progress = Callable[[str, float], None]
"""Called with what is being done and the share of the whole that is done (0 to 1)."""


@contextmanager
def reporting(progress: Progress | None, name: str = "") -> Iterator[Progress]:
    """`progress`, or if there is none a bar: in a notebook a widget or, without ipywidgets, text; elsewhere on the
    error stream, so that the output can be piped, and not at all if that is no terminal. It is gone when the block
    ends."""
    if progress:
        yield progress
        return
    from tqdm.auto import tqdm

    shape = "{desc} {percentage:3.0f} % |{bar}| {elapsed}, {remaining} left"
    # A notebook's streams say that they are no terminals, and its error stream is shown on red.
    where: dict[str, Any] = {"disable": False, "file": sys.stdout} if in_notebook() else {"disable": None}
    with tqdm(desc=name, total=1.0, bar_format=shape, leave=False, **where) as bar:

        def show(what: str, share: float) -> None:
            bar.set_description_str(f"{name}: {what}" if name else what, refresh=False)
            bar.update(share - bar.n)

        yield show


def in_notebook() -> bool:
    """Whether this process is a Jupyter kernel."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return "IPKernelApp" in getattr(shell, "config", ())
