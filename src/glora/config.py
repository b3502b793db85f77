"""Every setting of a run, in one typed value shared by Python, YAML files and command-line flags."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import yaml

from glora import presets
from glora.errors import ConfigError, near_miss
from glora.files import write_text
from glora.find import Signal, check_signal, check_workers
from glora.gains import GainPolicy
from glora.precision import native_precision
from glora.space import BiasPolicy, BoundSpace, SearchSpace
from glora.strategies import Select, Strategy, StrategyName, make_strategy
from glora.support import Storage
from glora.train.settings import PathRule, TrainSettings

__all__ = ["RunConfig", "parse_count"]

_PRESET = re.compile(r"(lora|repadapter)-([1-9]\d*)|(ssf|ia3|bitfit|prompt|frozen)")
_SPACES = ("default", "paper", "lora-<r>", "repadapter-<r>", "ssf", "ia3", "bitfit", "prompt", "frozen")
_BASELINES = ("none", "probe+lora", "all")
# What may still change while the search has not begun; the other settings, while the training has not.
_OF_THE_SEARCH = frozenset(
    "budget strategy eval_batch_size generations population parents mutants crossovers mutation fitness folds select "
    "prune finetune_epochs finetune_lr baselines random_subnets tau tau_epochs".split()
)
# What no result depends on.
_FREE = frozenset({"out", "workers", "ray"})
_LEAST = {
    "eval_batch_size": 1,
    "workers": 1,
    "finetune_epochs": 0,
    "folds": 2,
    "random_subnets": 0,
    "seed": 0,
    "tau": 0,
    "tau_epochs": 1,
}
_SUFFIXES = {"": 1, "k": 1_000, "m": 1_000_000, "b": 1_000_000_000}


def parse_count(text: str | int | float) -> int:
    """Read a number of parameters: ``300000``, ``"300k"``, ``"0.3M"``.

    Raises:
        ConfigError: if it is none.
    """
    found = re.fullmatch(r"([0-9][0-9_,]*(?:\.[0-9]+)?)([kKmMbB]?)", str(text).strip())
    if not found:
        raise ConfigError(f"budget {text!r} is no number of parameters: write 300000, 300k or 0.3M")
    count = Decimal(re.sub("[_,]", "", found[1])) * _SUFFIXES[found[2].lower()]
    if count != int(count):
        raise ConfigError(f"budget {text!r} is no whole number of parameters: write 300000, 300k or 0.3M")
    return int(count)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All settings of ``glora run``.

    Args:
        data: a folder DIR/CLASS/*.jpg or DIR/{train,val,test}/CLASS/*.jpg, the folder of a VTAB-1k data set, a
            table .csv, .tsv or .jsonl of path, label and perhaps split, or "digits".
        model: a timm name, "hf:NAME" or "hf:FOLDER" for transformers, or "offline/dinov2-small", which needs no hub.
        out: the run folder, runs/NAME-OF-THE-DATA if not given; an unfinished run found there goes on.
        checkpoint: local weights (.safetensors, .npz, .pth) for a timm model, instead of the hub's.
        size: side of the square input images in pixels, the model's own if not given; cost grows with its square.
        budget: most adapter parameters of the chosen subnet, such as 300k or 0.3M; unlimited if not given.
        rank: rank of the low-rank forms in the search space.
        space: "default", "paper" (C may be low-rank too), a mapping of forms by support tensor in YAML, or a preset
            (lora-8, ssf, ia3, bitfit, prompt, repadapter-8, frozen), which is trained alone and not searched.
        layers: glob over names of layers to adapt, such as "blocks.*.attn.*"; all supported layers if not given.
        gains: "balanced", or "paper" for the released code's (then lower lr to 1e-4).
        storage: of the forms of a support tensor in a supernet: "shared" by all as in the paper, or "separate".
        bias: for layers without a bias, "create" one when C or E act, or "keep" them without.
        epochs: passes over the training set, for the supernet and for each baseline.
        lr: peak learning rate of AdamW.
        weight_decay: of AdamW.
        warmup_epochs: epochs of linear warm-up, at most a tenth of all.
        paths: how the supernet's training draws structures: uniform, fair, sandwich or warmup, see docs/training.md.
        path_warmup: share of the training over which paths=warmup moves from the largest structure to random ones.
        train_budget: most adapter parameters of a structure that the supernet's training draws, such as the budget of
            the search; any if not given.
        none_rate: probability that a tensor is drawn as none where it may be; as any other form if not given.
        shallow_rate: probability that a step trains only the layers behind a random one, which makes it cheaper.
        ema: decay of the moving average of the trained tensors that is kept, such as 0.99; 0 for the last values.
        lr_scale: factors of the learning rate by what a tensor acts as, and for the head: "{vector: 2, head: 0.5}".
        consistency: weight of the divergence between two structures on the same batch; costs a second forward.
        augment: what changes training images at random: none, flip, crop (random crop and flip), randaugment (NOAH's:
            crop, flip, RandAugment, erasing) or timm's notation such as rand-m5-n1; none if not given, but in a
            protocol's task what that has.
        batch_size: most images in a training step; an epoch has them all, in batches as equal as can be.
        eval_batch_size: images in a forward of an evaluation; 25 to 50 is fastest on a CPU.
        drop_path: rate of stochastic depth in training; 0.1 where the model has any, if not given.
        precision: "auto" for bf16 where the device has it in hardware and fp32 elsewhere, or fp32, bf16, fp16.
        recompute: keep less for backward by running norms and activations once more; same result.
        checkpoint_blocks: keep only the inputs of the model's blocks for backward; a third more time, same result.
        strategy: of the search: the authors' "evolution", "random", "ageing" (evolution), "nsga2" (pip install
            'glora[nsga2]'), "surrogate" or "samplewise"; all score population * (generations + 1) structures.
        generations: of the search, after a first one of random structures.
        population: candidates in a generation.
        parents: of evolution: best candidates ever that are bred from; a fifth of the population if not given.
        mutants: of evolution: of a generation, made by mutation; half of it if not given.
        crossovers: of evolution: of a generation, made by crossover; half of it if not given.
        mutation: probability with which a mutation redraws each form; 0.2 for evolution, 0.05 for ageing and 0.01 for
            nsga2, if not given.
        prune: stop evaluating a candidate once it can matter no more; all that is found is the same. Only with
            fitness=accuracy, by evolution, random and samplewise search (which without it asks for other structures).
        workers: processes that evaluate candidates, more than one by Ray (extra ray); same result.
        ray: address of a Ray cluster where the workers shall be ("auto" for one that runs here); of its own if not
            given.
        fitness: what structures are ranked by: accuracy or loss on the validation images; or cv or cv-loss, the same by
            cross-validation over training and validation images, which trains a further supernet for each fold.
        folds: of a cross-validated fitness.
        select: take the best structure; the smallest of those that are not distinguishably worse; or a soup, the mean
            of the weights of several.
        finetune_epochs: further passes over the training set for the chosen subnet alone, from the supernet's weights.
        finetune_lr: peak learning rate of that; lr, at which baselines are trained too, if not given.
        baselines: what to train equally long and compare with: none; probe+lora, a linear probe and a uniform LoRA of
            at least the found size; or all, SSF, BitFit and uniform A low-rank with C and D vectors too. But for none,
            random structures are scored too, as many as the search scored.
        random_subnets: random subnets within the budget to compare with.
        tau: structures to train alone, for Kendall's tau between their scores in the supernet and on their own.
        tau_epochs: epochs of each of these trainings.
        val_fraction: share of the images held out for validation, where the data have no such part.
        test_fraction: share of the images held out for the test, where the data have no parts.
        skip_bad: go on without files that are no readable images, and count them.
        split_seed: of the split, where there is none; the seed if not given.
        seed: of everything that is drawn.

    Raises:
        ConfigError: for a setting that is out of range.
        StructureError: for a space that cannot be.
    """

    data: str
    model: str
    out: str | None = None
    checkpoint: str | None = None
    size: int | None = None
    budget: int | str | None = None
    rank: int = 4
    space: str | dict[str, Any] = "default"
    layers: str | None = None
    gains: GainPolicy = "balanced"
    storage: Storage = "shared"
    bias: BiasPolicy = "create"
    epochs: int = 100
    lr: float = 1e-3
    weight_decay: float = 1e-4
    warmup_epochs: int = 10
    paths: PathRule = "uniform"
    path_warmup: float = 0.25
    train_budget: int | str | None = None
    none_rate: float | None = None
    shallow_rate: float = 0.0
    ema: float = 0.0
    lr_scale: dict[str, float] | None = None
    consistency: float = 0.0
    augment: str | None = None
    batch_size: int = 64
    eval_batch_size: int = 50
    drop_path: float | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    recompute: bool = False
    checkpoint_blocks: bool = False
    strategy: StrategyName = "evolution"
    generations: int = 20
    population: int = 50
    parents: int | None = None
    mutants: int | None = None
    crossovers: int | None = None
    mutation: float | None = None
    prune: bool = True
    workers: int = 1
    ray: str | None = None
    fitness: Signal = "accuracy"
    folds: int = 5
    select: Select = "best"
    finetune_epochs: int = 0
    finetune_lr: float | None = None
    baselines: Literal["none", "probe+lora", "all"] = "probe+lora"
    random_subnets: int = 20
    tau: int = 0
    tau_epochs: int = 10
    val_fraction: float = 0.2
    test_fraction: float = 0.2
    skip_bad: bool = False
    split_seed: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.precision == "auto":
            object.__setattr__(self, "precision", native_precision())
        if self.budget is not None:
            object.__setattr__(self, "budget", parse_count(self.budget))
        if self.train_budget is not None:
            object.__setattr__(self, "train_budget", parse_count(self.train_budget))
        if self.out is None:
            object.__setattr__(self, "out", str(Path("runs") / (Path(self.data).resolve().name or "run")))
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {least} or more, not {getattr(self, name)}")
        if self.tau == 1:
            raise ConfigError("tau is 0, or 2 structures or more to correlate, not 1")
        if self.baselines not in _BASELINES:
            near = near_miss(self.baselines, _BASELINES)
            raise ConfigError(f"baselines is none, probe+lora or all, not {self.baselines!r}{near}")
        if self.finetune_lr is not None and not self.finetune_lr >= 0:
            raise ConfigError(f"finetune_lr must not be negative, but is {self.finetune_lr}")
        if self.split_seed is not None and self.split_seed < 0:
            raise ConfigError(f"split_seed is 0 or more, not {self.split_seed}")
        check_signal(self.fitness, self.select)
        check_workers(self.fitness, self.workers, self.ray)
        self.search_space()
        self.train_settings()
        self.make_strategy(SearchSpace().bind({}))  # refused now if it would be after hours of training

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(str(self.out))

    @property
    def limit(self) -> int | None:
        """The budget as a number, or None."""
        return None if self.budget is None else parse_count(self.budget)

    @property
    def split(self) -> dict[str, Any]:
        """How the data are cut where there is no split, as ``list_data`` takes it."""
        seed = self.seed if self.split_seed is None else self.split_seed
        return {"seed": seed, "val_fraction": self.val_fraction, "test_fraction": self.test_fraction}

    def search_space(self) -> SearchSpace:
        """The search space that ``space`` and ``rank`` name.

        Raises:
            ConfigError: if there is none of that name.
        """
        if isinstance(self.space, dict):
            return SearchSpace.from_dict({"rank": self.rank} | self.space)
        if self.space == "default":
            return SearchSpace(self.rank)
        if self.space == "paper":
            return SearchSpace.paper(self.rank)
        found = _PRESET.fullmatch(self.space)
        if not found:
            known = ", ".join(_SPACES)
            raise ConfigError(f"space {self.space!r} is unknown: {known}{near_miss(self.space, _SPACES)}")
        ranked, rank, plain = found.groups()
        point: SearchSpace = getattr(presets, ranked)(int(rank)) if ranked else getattr(presets, plain)()
        return point

    def make_strategy(self, space: BoundSpace, budget: int | None = None) -> Strategy:
        """The search strategy with its numbers.

        Raises:
            BudgetError: if no structure of the space meets the budget.
            ConfigError: for a number that is out of range or contradicts another one.
        """
        return make_strategy(
            self.strategy,
            space,
            budget,
            seed=self.seed,
            generations=self.generations,
            population=self.population,
            parents=self.parents,
            mutants=self.mutants,
            crossovers=self.crossovers,
            probability=self.mutation,
        )

    def train_settings(self, epochs: int | None = None, lr: float | None = None) -> TrainSettings:
        """The part that concerns training; for another number of epochs and another learning rate, if given."""
        return TrainSettings(
            epochs=self.epochs if epochs is None else epochs,
            lr=self.lr if lr is None else lr,
            weight_decay=self.weight_decay,
            warmup_epochs=self.warmup_epochs,
            batch_size=self.batch_size,
            precision=native_precision() if self.precision == "auto" else self.precision,
            checkpoint_blocks=self.checkpoint_blocks,
            seed=self.seed,
            paths=self.paths,
            path_warmup=self.path_warmup,
            train_budget=None if self.train_budget is None else parse_count(self.train_budget),
            none_rate=self.none_rate,
            shallow_rate=self.shallow_rate,
            ema=self.ema,
            lr_scale=self.lr_scale,
            consistency=self.consistency,
            augment="none" if self.augment is None else self.augment,
        )

    def check(self, folder: Path) -> None:
        """Raise ConfigError, naming the setting, if the folder holds a run whose results depend on another one."""
        path = folder / "config.yaml"
        there = self._read(path) if path.is_file() else {}
        trained = any((folder / name).exists() for name in ("state.safetensors", "supernet.safetensors"))
        searched = (folder / "search.jsonl").exists()
        for key, value in asdict(self).items():
            counts = searched if key in _OF_THE_SEARCH else trained
            if counts and key not in _FREE and key in there and there[key] != value:
                raise ConfigError(
                    f"{folder} holds a run with {key}={there[key]}, now it is {value}: "
                    "give the same settings to go on with it, or another --out"
                )

    def of_the_supernet(self) -> dict[str, Any]:
        """The settings that the trained supernet depends on."""
        return {key: value for key, value in asdict(self).items() if key not in _OF_THE_SEARCH | _FREE}

    def same_results(self, other: RunConfig) -> bool:
        """Whether both settings give the same results."""
        return replace(self, **{key: getattr(other, key) for key in _FREE}) == other

    def save(self, folder: Path) -> None:
        """Write all settings, resolved, to the folder's ``config.yaml``."""
        text = yaml.safe_dump(asdict(self), sort_keys=False, allow_unicode=True)
        path = folder / "config.yaml"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)

    @classmethod
    def load(cls, folder: str | Path) -> RunConfig:
        """Read the settings of a run folder.

        Raises:
            ConfigError: if it is none, or its ``config.yaml`` is damaged.
        """
        path = Path(folder) / "config.yaml"
        if not path.is_file():
            raise ConfigError(
                f"{folder} is no run folder: it has no config.yaml; make one with glora run or glora train"
            )
        values = cls._read(path)
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(map(str, values)) - set(known)):
            raise ConfigError(f"{path}: there is no setting {unknown[0]!r}{near_miss(unknown[0], known)}")
        try:
            return cls(**(values | {"out": str(folder)}))
        except TypeError as error:
            raise ConfigError(f"{path}: {error}") from error

    @staticmethod
    def _read(path: Path) -> dict[str, Any]:
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is no readable YAML: {' '.join(str(error).split())}") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{path} holds no settings")
        return values
