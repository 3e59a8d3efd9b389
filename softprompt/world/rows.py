"""The World's questions as benchmark rows, in the layout of a mirror of the hub."""

from pathlib import Path

from softprompt.world.facts import ATTRIBUTES, World

PATH = "softprompt/knowledge-world"


def write_rows(world: World, mirror: Path) -> None:
    """Write `<mirror>/softprompt/knowledge-world/<attribute>/<split>-00000-of-00001.parquet`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for attribute in ATTRIBUTES:
        folder = mirror / PATH / attribute.name
        folder.mkdir(parents=True, exist_ok=True)
        for split, people in (("train", world.train), ("test", world.test)):
            rows = [
                {
                    "person": person,
                    "question": attribute.question.format(person=person),
                    "answer": world.facts[person, attribute.name],
                    "options": list(attribute.values),
                }
                for person in people
            ]
            pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}-00000-of-00001.parquet")
