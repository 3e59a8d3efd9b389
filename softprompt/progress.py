"""Progress of long work: by default a bar where somebody looks, be it a terminal or a notebook."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, float], None]
"""Called with what is being done and the share of the whole that is done (0 to 1)."""


@contextmanager
def reporting(progress: Progress | None, name: str = "") -> Iterator[Progress]:
    """`progress`, or if there is none a bar: on the error stream, so that the output can be piped, and not at all if
    that is no terminal. It is gone when the block ends."""
    if progress:
        yield progress
        return
    from tqdm.auto import tqdm

    shape = "{desc} {percentage:3.0f} % |{bar}| {elapsed}, {remaining} left"
    with tqdm(desc=name, total=1.0, bar_format=shape, disable=None, leave=False) as bar:

        def show(what: str, share: float) -> None:
            bar.set_description_str(f"{name}: {what}" if name else what, refresh=False)
            bar.update(share - bar.n)

        yield show
