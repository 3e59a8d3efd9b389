"""What the tests share: a tiny checkpoint, a toy benchmark, a quick protocol. Nothing here reaches the network."""

import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from softprompt.answers import OptionInWords
from softprompt.benchmarks import Benchmark, Example, Row
from softprompt.protocol import Protocol, Resources
from softprompt.rows import Rows

if TYPE_CHECKING:
    from s3 import S3Bucket, S3Server

    from softprompt.models import LanguageModel
    from softprompt.result import Result
    from softprompt.study import Study

CPU = Resources(device="cpu", dtype="float32", micro_batch=64)
"""What the tiny checkpoint runs on."""

CACHES = Path(tempfile.mkdtemp(prefix="softprompt-tests-"))
os.environ.update(
    HF_HOME=str(CACHES / "huggingface"),
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    PREFECT_HOME=str(CACHES / "prefect"),
    PREFECT_LOCAL_STORAGE_PATH=str(CACHES / "prefect" / "storage"),
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    PREFECT_LOGGING_TO_API_ENABLED="false",
    PREFECT_API_REQUEST_TIMEOUT="300",  # longer than its server waits for a lock; see flows/cli.py
    DO_NOT_TRACK="true",
    SOFTPROMPT_CACHE=str(CACHES / "softprompt"),
    AWS_CONFIG_FILE="/dev/null",
    AWS_SHARED_CREDENTIALS_FILE="/dev/null",
    AWS_EC2_METADATA_DISABLED="true",
)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("SOFTPROMPT_MIRROR", None)

CAPITALS = {
    "Norway": "Oslo",
    "Peru": "Lima",
    "Egypt": "Cairo",
    "Ecuador": "Quito",
    "India": "Delhi",
    "Tunisia": "Tunis",
    "Ghana": "Accra",
    "Vietnam": "Hanoi",
    "France": "Paris",
    "Senegal": "Dakar",
    "Bulgaria": "Sofia",
    "Cuba": "Havana",
}
WORDINGS = (
    "What is the capital of {country}?",
    "Which city is the capital of {country}, a country on this planet?",
    "Name the capital of {country}.",
)


def pytest_collection_finish() -> None:
    gc.freeze()  # what was imported is no garbage: to look through it took a second at each model loaded


def pytest_unconfigure() -> None:
    shutil.rmtree(CACHES, ignore_errors=True)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[S3Server]":
    from s3 import S3Server

    server = S3Server(tmp_path_factory.mktemp("s3"))
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def s3(s3_server: "S3Server", monkeypatch: pytest.MonkeyPatch) -> "S3Bucket":
    """An empty place in a bucket; the environment of this process says where, and with which credentials."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server.new_place()


def capital_example(row: Row) -> Example:
    return Example(
        question=f"Question: {row['question']}",
        answer=row["capital"],
        golds=(row["capital"],),
        options=tuple(row["options"]),
    )


def capital_rows(wording: str) -> list[Row]:
    """One row for each country, four options each."""
    capitals = list(CAPITALS.values())
    return [
        {
            "question": wording.format(country=country),
            "capital": capital,
            "options": [capitals[(i + shift) % len(capitals)] for shift in range(4)],
        }
        for i, (country, capital) in enumerate(CAPITALS.items())
    ]


@pytest.fixture(scope="module")
def prefect_api() -> Iterator[None]:
    """A Prefect server for a module's flows."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def study(tmp_path: Path) -> "Study":
    """A whole small one with an MLflow store of its own, whose claims end soon."""
    from studies import make_study

    from softprompt.study import Study

    return replace(Study.read(make_study(tmp_path)), lease_s=2)


@pytest.fixture(scope="session")
def toy_benchmark() -> Benchmark:
    return Benchmark(
        name="toy_capitals",
        path="toy/capitals",
        chance=0.25,
        to_example=capital_example,
        grammar=OptionInWords(),
        max_new_tokens=8,
    )


@pytest.fixture(scope="session")
def rows() -> Rows:
    """24 train and 12 test items of the toy benchmark."""
    first, second, third = (
        [replace(capital_example(row), id=f"{number}-{i}") for i, row in enumerate(capital_rows(wording))]
        for number, wording in enumerate(WORDINGS)
    )
    return Rows(train=(*first, *second), test=tuple(third))


@pytest.fixture(scope="session")
def quick_protocol() -> Protocol:
    return Protocol(
        num_vectors=4,
        num_steps=6,
        batch_size=4,
        num_train=16,
        num_shots=2,
        seeds=(0, 1),
        num_warmup_steps=1,
        curve_steps=(0, 3),
    )


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, rows: Rows, toy_benchmark: Benchmark) -> Path:
    """It has met the training questions four times: some of its answers are right, some end, in others it rambles."""
    import torch

    torch.set_num_threads(1)  # so small a model only waits for a second one
    texts = [f"{toy_benchmark.prompt(example)} {example.answer}" for example in rows.train]
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "step-100", texts)


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> "LanguageModel":
    """The tiny checkpoint, loaded."""
    from softprompt.checkpoints import open_checkpoint
    from softprompt.loading import load_model

    return load_model(open_checkpoint(str(tiny_checkpoint)), CPU)


@pytest.fixture(scope="module")
def run(
    tiny_checkpoint: Path, toy_benchmark: Benchmark, quick_protocol: Protocol, rows: Rows
) -> "Callable[..., Result]":
    """Evaluate the tiny checkpoint on the toy benchmark, with whatever is changed."""
    from softprompt.evaluation import evaluate

    def run(checkpoint: Path = tiny_checkpoint, **changes: Any) -> "Result":
        changes = {"benchmark": toy_benchmark, "protocol": quick_protocol, "rows": rows, "resources": CPU} | changes
        return evaluate(checkpoint, **changes)

    return run


def write_tiny_checkpoint(folder: Path, texts: list[str], max_shard_size: str = "1GB") -> Path:
    """A Llama of two layers, width 32, trained on `texts`, and a byte-level BPE tokenizer that puts BOS in front."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["</s>", "<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")

    torch.manual_seed(0)
    network = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            initializer_range=0.2,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for text in texts * 4:
        ids = torch.tensor([[*tokenizer(text).input_ids, tokenizer.eos_token_id]])
        torch.autograd.backward(network(ids, labels=ids).loss)
        optimizer.step()
        optimizer.zero_grad()

    network.save_pretrained(folder, max_shard_size=max_shard_size)
    tokenizer.save_pretrained(folder)
    return folder
