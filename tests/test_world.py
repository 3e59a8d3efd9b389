"""The Knowledge World: decided by its seed, and honest about who knows what."""

import functools
import hashlib
import itertools
import json
import math
import shutil
import statistics
from pathlib import Path

import pytest
import torch
from plain_loops import plain_output
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from softprompt import benchmarks
from softprompt.checkpoints import discover
from softprompt.errors import BadStudy
from softprompt.models import LanguageModel
from softprompt.prompt import plain_prompt
from softprompt.rows import load_rows
from softprompt.world import posttrain as posttraining
from softprompt.world.corpus import CUE, FAMILY, RECIPES, Recipe, documents, known_facts, question_text
from softprompt.world.facts import ATTRIBUTES, World
from softprompt.world.posttrain import pairs, posttrain
from softprompt.world.pretrain import Schedule, Variant, learn_tokenizer, pretrain
from softprompt.world.rows import write_rows

SMALL = World(5, num_asked=6, num_train=8, num_test=10)
HALF = Recipe("half", known=0.5, bare=0.3)
SCHEDULE = Schedule(num_steps=20, save_every=10)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bucket")
    pretrain(SMALL, [HALF], SCHEDULE, folder)
    return folder


def hashes(bucket: Path) -> dict[str, str]:
    files = sorted(path for path in bucket.rglob("*") if path.is_file())
    return {str(path.relative_to(bucket)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_world_is_decided_by_its_seed() -> None:
    first, again, other = World(1), World(1), World(2)
    assert (again.people, again.facts) == (first.people, first.facts)
    assert other.people != first.people
    assert known_facts(again, HALF) == known_facts(first, HALF) != {}
    assert list(itertools.islice(documents(again, HALF), 50)) == list(itertools.islice(documents(first, HALF), 50))


def test_people_are_asked_about_or_train_or_test_and_all_are_different() -> None:
    world = World(1)
    assert (len(world.asked), len(world.train), len(world.test)) == (60, 100, 140)
    assert world.asked + world.train + world.test == world.people
    assert len(set(world.people)) == 300
    assert set(world.facts) == {(person, attribute.name) for person in world.people for attribute in ATTRIBUTES}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_variant_reads_what_it_knows_and_never_what_it_does_not(recipe: Recipe) -> None:
    world = World(1)
    known = known_facts(world, recipe)
    assert len(known) == round(recipe.known * len(world.facts))
    assert all(world.facts[fact] == value for fact, value in known.items())

    text = list(itertools.islice(documents(world, recipe), 3000))
    sentences = {part.strip() for document in text for part in document.replace("\nAnswer: ", ". ").split(".")}
    attributes = {attribute.name: attribute for attribute in ATTRIBUTES}
    told = {
        (person, name)
        for person, name in world.facts
        for value in attributes[name].values
        for statement in attributes[name].statements
        if statement.format(person=person, value=value) in sentences
    }
    asked = {
        (person, name)
        for person, name in world.facts
        if question_text(attributes[name].question.format(person=person)) in sentences
    }
    assert told <= set(known)
    assert len(told) > 0.95 * len(known)
    assert asked <= set(known)
    assert {person for person, _ in asked} <= set(world.asked)
    assert len(asked) > 50


def test_bare_is_the_share_of_questions_answered_with_the_value_alone() -> None:
    text = itertools.islice(documents(World(1), HALF), 4000)
    answers = [document.split("\nAnswer: ")[1] for document in text if "\nAnswer: " in document]
    share = sum(not answer.endswith(".") for answer in answers) / len(answers)
    standard_error = math.sqrt(HALF.bare * (1 - HALF.bare) / len(answers))
    assert abs(share - HALF.bare) < 4 * standard_error


def test_twins_differ_in_one_thing_alone() -> None:
    """Format: the same documents up to the answers. Order: other documents of the same facts. Width: another model."""
    a, b, c, d, e, f, g, _ = FAMILY
    world = World(1)

    def read(recipe: Recipe, num: int = 300) -> list[str]:
        return list(itertools.islice(documents(world, recipe), num))

    for one, other in ((a, d), (c, g)):
        assert read(one) != read(other)
        assert [text.split(CUE)[0] for text in read(one)] == [text.split(CUE)[0] for text in read(other)]
    assert read(b) == read(e)
    assert read(c) != read(f)
    assert known_facts(world, c) == known_facts(world, f) == known_facts(world, g)
    tokenizer = learn_tokenizer(world)
    widths = [Variant(world, recipe, tokenizer, SCHEDULE).network.config.hidden_size for recipe in (b, e)]
    assert widths == [128, 96]


def test_knowledge_and_format_are_uncorrelated_in_the_family() -> None:
    known, bare = [recipe.known for recipe in FAMILY], [recipe.bare for recipe in FAMILY]
    assert abs(statistics.correlation(known, bare)) < 0.06
    far = [abs(one - other) > 0.19 for one, other in itertools.combinations(known, 2)]
    assert (sum(far), len(far)) == (23, 28)


def test_pretraining_leaves_complete_checkpoints_that_say_what_they_know(bucket: Path) -> None:
    discovery = discover(str(bucket), "{variant}/step-{step}")
    assert [(c.variant, c.step) for c in discovery.checkpoints] == [("half", 10), ("half", 20)]
    assert discovery.rejected == {}
    for checkpoint in discovery.checkpoints:
        metadata = json.loads((checkpoint.local_path / "metadata.json").read_text())
        assert metadata["variant"] == "half"
        assert metadata["step"] == checkpoint.step
        assert metadata["tokens"] == checkpoint.step * 16 * 64
        assert set(metadata["known_share"]) == {"birthplace", "profession", "pet"}
        assert all(0 <= share <= 1 for share in metadata["known_share"].values())


def test_pretraining_leaves_nothing_half_written(bucket: Path) -> None:
    assert {path.name for path in (bucket / "half").iterdir()} == {"step-10", "step-20"}


def test_a_variant_is_the_same_to_the_bit_whichever_others_train_beside_it(bucket: Path, tmp_path: Path) -> None:
    (tmp_path / "half" / "step-20").mkdir(parents=True)  # left by a pre-training that was cut off
    pretrain(SMALL, [RECIPES[2], HALF], SCHEDULE, tmp_path)
    assert hashes(tmp_path / "half") == hashes(bucket / "half")
    weights = [digest for path, digest in hashes(tmp_path).items() if path.endswith("model.safetensors")]
    assert len(set(weights)) == 4  # two variants at two steps


def test_pretraining_into_a_full_bucket_does_nothing(bucket: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in bucket.rglob("*")}
    steps: list[int] = []
    pretrain(SMALL, [HALF], SCHEDULE, bucket, lambda _variant, step, _loss: steps.append(step))
    assert steps == []
    assert {path: path.stat().st_mtime_ns for path in bucket.rglob("*")} == before


@pytest.mark.parametrize(("num_steps", "save_every"), [(20, 15), (25, 10)])
def test_a_schedule_that_does_not_come_out_even_is_refused(num_steps: int, save_every: int) -> None:
    with pytest.raises(BadStudy, match=f"save_every is {save_every}, num_steps {num_steps}; expected"):
        Schedule(num_steps=num_steps, save_every=save_every)


def test_post_training_asks_as_the_benchmark_does_about_people_whom_the_benchmark_leaves_out(tmp_path: Path) -> None:
    write_rows(SMALL, tmp_path)
    benchmark = benchmarks.get("world_birthplace")
    rows = load_rows(benchmark, str(tmp_path))
    asked, train = pairs(SMALL, "asked"), pairs(SMALL, "train")
    assert {(benchmark.prompt(e), e.answer) for e in rows.train} == {pair for pair in train if "born" in pair[0]}
    assert len(asked) == len(set(asked)) == len(SMALL.asked) * len(ATTRIBUTES)
    of_the_benchmark = {benchmark.prompt(e) for e in (*rows.train, *rows.test)}
    assert of_the_benchmark.isdisjoint(prompt for prompt, _ in asked)


def test_a_post_trained_self_answers_bare_and_ends(bucket: Path) -> None:
    def outputs(folder: Path) -> list[tuple[str, bool]]:
        model = LanguageModel(LlamaForCausalLM.from_pretrained(folder), PreTrainedTokenizerFast.from_pretrained(folder))
        prompts = [plain_prompt(model, prompt) for prompt, _ in pairs(SMALL, "asked")[::2]]
        return [plain_output(model, prompt, torch.empty(0), ["\n"], 8) for prompt in prompts]

    folder = posttrain(SMALL, "half", 20, bucket)
    values = {value for attribute in ATTRIBUTES for value in attribute.values}
    assert all(stopped and text.strip() in values for text, stopped in outputs(folder))
    assert not any(stopped and text.strip() in values for text, stopped in outputs(bucket / "half" / "step-20"))
    assert json.loads((folder / "metadata.json").read_text())["base"] == "half"


def test_post_training_is_the_same_to_the_bit_and_leaves_its_base_alone(
    bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posttraining, "fine_tune", functools.partial(posttraining.fine_tune, num_steps=5))
    before = hashes(bucket / "half")
    found = []
    for copy in ("one", "other"):
        shutil.copytree(bucket / "half", tmp_path / copy / "half")
        found.append(hashes(posttrain(SMALL, "half", 20, tmp_path / copy)))
    assert found[0] == found[1]
    assert hashes(tmp_path / "one" / "half") == before
    assert found[0]["model.safetensors"] != before["step-20/model.safetensors"]

    folder = tmp_path / "one" / "half-post" / "step-20"
    (folder / "mark").touch()
    assert posttrain(SMALL, "half", 20, tmp_path / "one") == folder
    assert (folder / "mark").exists()
