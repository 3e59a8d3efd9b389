"""What decides a score (`Protocol`) and what must not (`Resources`)."""

from dataclasses import asdict, dataclass, fields
from functools import cached_property
from types import UnionType
from typing import Any, Self, get_args, get_origin, get_type_hints

from softprompt.conditions import CONTROLS, PLACEMENTS, Condition, planned
from softprompt.errors import BadStudy
from softprompt.fingerprints import fingerprint

GRADIENTS = ("full", "truncated")


class FromDict:
    """Read a dataclass from plain values (TOML, JSON); unknown keys are refused by name."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        require(isinstance(values, dict), cls.__name__.lower(), values, f"a table, [{cls.__name__.lower()}]")
        known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(values) - known)
        if unknown:
            raise BadStudy(
                f"{cls.__name__} has no setting {', '.join(map(repr, unknown))}; it has {', '.join(sorted(known))}."
            )
        return cls(**values)

    def __post_init__(self) -> None:
        """Raise `BadStudy` at a value of another type than declared. A list is as good as a tuple."""
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if isinstance(value, list | range):
                object.__setattr__(self, name, tuple(value))
            require(_fits(getattr(self, name), hint), name, value, _in_words(hint))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload]


@dataclass(frozen=True, kw_only=True)
class Protocol(FromDict):
    """Everything that decides a score, apart from the checkpoint and the benchmark.

    Two results are comparable if and only if their protocols have the same `fingerprint`.
    Ten vectors, 80 steps and about 640 samples are the paper's (arXiv:2606.12117); the rest is ours,
    with the measurements behind it in `docs/decisions/`.
    """

    placements: tuple[str, ...] = ("cue", "prefix")
    """Where the vectors go; each is tuned and evaluated, the first is the headline that ranks variants."""
    controls: tuple[str, ...] = ()
    """Further conditions, which say what the vectors learned. For each placement: `untuned` (0 steps), `random`
    (directions drawn by seed, as long as the tuned vectors), `shuffled` (tuned on answers shuffled among the training
    items), `few_shot` (the tuned vectors with solved examples before the question). And `instruction`: no vectors, but
    a line that states the answer's format."""
    num_vectors: int = 10
    """Vectors in front of the question (`prefix`). `cue` has as many vectors as the answer cue has tokens."""
    prefix_text: str = ""
    """Text whose tokens, repeated as often as needed, the vectors in front start from; empty for sampled vocabulary."""
    cue_text: str = ""
    """Text whose tokens the vectors instead of the cue start from; empty for the benchmark's own cue."""
    prefix_gradient: str = "full"
    """How the vectors in front learn: `truncated` reads the question as a constant, with fewer FLOPs; see
    `softprompt.truncation`. Their scores differ."""
    num_steps: int = 80
    batch_size: int = 8
    num_train: int = 640
    """Distinct training samples; repeated in epochs if `num_steps * batch_size` asks for more."""
    num_test: int | None = None
    """First so many items of the test split; None for all."""
    num_shots: int = 3
    chat: bool = False
    """Ask through the tokenizer's chat template, for post-trained models."""
    seeds: tuple[int, ...] = (0, 1, 2)
    learning_rate: float = 0.3
    """At its peak, in units of the embedding rows' RMS."""
    num_warmup_steps: int = 4
    unknown_share: float = 0.1
    """Assumed share of answer tokens that are facts which the checkpoint was never told: a token's loss is
    -ln((1 - unknown_share) p + unknown_share), but for what all answers share (`softprompt.loss`). 0 is cross-entropy
    throughout, under which the vectors of a model that is sure of wrong answers unlearn to recall."""
    learn_stop: bool = True
    """Whether the token that ends an answer is learned, too; stopping is a part of the format."""
    curve_steps: tuple[int, ...] = (0, 10, 20, 40, 80)
    """Tuning steps after which the prompt is evaluated; those beyond `num_steps` are left out."""
    num_curve: int | None = 100
    """First so many test items for the points of the tuning curve; None for all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_vectors", "num_steps", "batch_size", "num_train"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "a whole number of at least 1")
        for name in ("num_test", "num_curve"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "at least 1, or left out for all items")
        require(
            self.prefix_gradient in GRADIENTS, "prefix_gradient", self.prefix_gradient, f"one of {', '.join(GRADIENTS)}"
        )
        shots = f"0 to num_train, {self.num_train}, since they are the first of the training samples"
        require(0 <= self.num_shots <= self.num_train, "num_shots", self.num_shots, shots)
        rate = self.learning_rate
        require(0 < rate <= 1e6, "learning_rate", rate, "a positive multiple of the embedding RMS, at most 1e6")
        require(0 <= self.unknown_share < 1, "unknown_share", self.unknown_share, "a share from 0 to less than 1")
        require(self.num_warmup_steps >= 0, "num_warmup_steps", self.num_warmup_steps, "0 or more")
        require(bool(self.seeds) and len(set(self.seeds)) == len(self.seeds), "seeds", self.seeds, "distinct seeds")
        require(all(0 <= seed < 2**63 for seed in self.seeds), "seeds", self.seeds, "seeds from 0 to less than 2^63")
        require(bool(self.placements), "placements", self.placements, f"one or more of {', '.join(PLACEMENTS)}")
        for name, known in (("placements", PLACEMENTS), ("controls", CONTROLS)):
            found = getattr(self, name)
            holds = set(found) <= set(known) and len(set(found)) == len(found)
            require(holds, name, found, f"distinct names out of {', '.join(known)}")
        if "few_shot" in self.controls:
            require(self.num_shots >= 1, "num_shots", self.num_shots, "1 or more for the control 'few_shot'")
        require(
            list(self.curve_steps) == sorted(set(self.curve_steps)) and min(self.curve_steps, default=0) >= 0,
            "curve_steps",
            self.curve_steps,
            "rising step numbers from 0",
        )
        # However they were written, equal protocols have one fingerprint.
        for name in ("learning_rate", "unknown_share"):
            object.__setattr__(self, name, float(getattr(self, name)))
        object.__setattr__(self, "controls", tuple(name for name in CONTROLS if name in self.controls))

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint({"protocol": 8, **self.to_dict()})

    @property
    def headline(self) -> str:
        """The condition whose accuracy ranks the variants."""
        return self.placements[0]

    @cached_property
    def planned(self) -> tuple[Condition, ...]:
        """All conditions of a result, in the order in which tables show them."""
        return planned(self.placements, self.controls, self.num_shots)

    @property
    def conditions(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(condition.name for condition in self.planned)

    @property
    def tunings(self) -> tuple[str, ...]:
        """Names of those that vectors are tuned for, each with a tuning curve."""
        return tuple(condition.name for condition in self.planned if condition.is_tuning)

    @property
    def measured_steps(self) -> tuple[int, ...]:
        """The tuning curve's steps; the last is always the final one."""
        return (*(step for step in self.curve_steps if step < self.num_steps), self.num_steps)


@dataclass(frozen=True, kw_only=True)
class Resources(FromDict):
    """Where and how fast a job runs. Never part of its identity: scores do not depend on it."""

    device: str = "auto"
    """'auto' takes the first GPU and else the CPU; otherwise a torch device name."""
    dtype: str = "auto"
    """Of the backbone; 'auto' is bfloat16 on a GPU and float32 on a CPU. The vectors are always float32."""
    micro_batch: int | None = None
    """Most rows in one forward pass; left out, as many as fit into free memory. After an out-of-memory it is halved."""
    devices: tuple[str, ...] = ()
    """GPUs of the host that jobs share, as CUDA_VISIBLE_DEVICES names them: ["0", "1"]. Each job then runs in processes
    of its own that see its share of them. Empty: one job at a time."""
    processes_per_job: int = 1
    """Processes that Accelerate runs a job on, each with a whole model."""
    devices_per_process: int = 1
    """GPUs that hold one model together; its layers are spread over them by Accelerate's device_map."""
    concurrency_limit: str = ""
    """Prefect's concurrency limit that counts the cluster's GPUs; a job occupies `devices_per_job` of it."""
    timeout_s: float | None = None
    """A job is killed after so many seconds; for that it runs in a process of its own."""
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.micro_batch is None or self.micro_batch >= 1, "micro_batch", self.micro_batch, "at least 1")
        require(self.dtype in ("auto", "float32", "bfloat16"), "dtype", self.dtype, "auto, float32 or bfloat16")
        for name in ("processes_per_job", "devices_per_process"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "a whole number of at least 1")
        num, devices, shared = self.devices_per_job, self.devices, self.devices_per_process
        require(
            shared == 1 or self.processes_per_job == 1,
            "devices_per_process",
            shared,
            "1 where processes_per_job is more than 1: models are copied or spread, not both",
        )
        require(shared == 1 or self.device == "auto", "device", self.device, "auto with several devices_per_process")
        require(len(devices) % num == 0, "devices", devices, f"a multiple of the {num} that a job takes")
        require(len(set(devices)) == len(devices), "devices", devices, "distinct devices")
        require(self.timeout_s is None or self.timeout_s > 0, "timeout_s", self.timeout_s, "a number of seconds")

    @property
    def devices_per_job(self) -> int:
        return self.processes_per_job * self.devices_per_process

    @property
    def slots(self) -> list[tuple[str, ...]]:
        """Devices of each job that may run on this host at the same time."""
        num = self.devices_per_job
        return [self.devices[start : start + num] for start in range(0, len(self.devices), num)] or [()]

    @property
    def in_child(self) -> bool:
        """Whether jobs run in processes of their own."""
        return bool(self.devices) or self.processes_per_job > 1 or self.timeout_s is not None


def require(holds: bool, name: str, found: Any, expected: str) -> None:
    if not holds:
        raise BadStudy(f"{name} is {found!r}; expected {expected}.")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the annotated type; a whole number serves as a float."""
    if isinstance(hint, UnionType):
        return any(_fits(value, kind) for kind in get_args(hint))
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(item, get_args(hint)[0]) for item in value)
    if hint in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if hint is float else hint)


def _in_words(hint: Any) -> str:
    if get_origin(hint) is tuple:
        return f"a list of {_in_words(get_args(hint)[0])}s"
    words = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    return " or ".join(words[kind] for kind in get_args(hint) or (hint,) if kind in words)
