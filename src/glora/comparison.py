"""What a found subnet must beat, under equal conditions: fixed structures, random subnets, random search."""

from __future__ import annotations

import json
import random
import statistics
from pathlib import Path
from typing import NamedTuple

from glora import presets
from glora.checkpoint import load_supernet, save_supernet
from glora.evaluate import Evaluator
from glora.evidence import gain, kendall_tau, verdict
from glora.files import write_json
from glora.metrics import Row
from glora.model import GLoRAModel
from glora.run import Run
from glora.soup import Soup
from glora.space import SearchSpace
from glora.strategies import Score, legal_sample
from glora.strategies.score import bits
from glora.structure import Form, LayerStructure, Structure

__all__ = ["Comparison", "lora_rank"]

_RANDOM = "random search"


class _Baseline(NamedTuple):
    method: str
    space: SearchSpace


class Comparison:
    """The table of a run: validation figures first, and at the very end those of the test images (final).

    Args:
        run: whose supernet is trained and searched on the way, if it is not yet.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.config = run.config
        self.found = run.search()
        self.size = run.size
        self.searched = run.net.bound.cardinality > 1
        self._precision = run.config.train_settings().precision
        self._compared = self.searched and self.config.baselines != "none"

    def validate(self) -> None:
        """Train the baselines, or read the finished ones, and enter all validation figures."""
        run, right = self.run, {}
        for baseline in self._baselines():
            net = self._trained(baseline)
            right[baseline.method] = self._enter(
                baseline.method, net, run.metrics.seconds(baseline.method), self._alone()
            )
        self._random_subnets()
        spent = sum(run.metrics.seconds(stage) for stage in ("supernet", *self._fold_stages()))
        if self._compared:
            best = run.random_search().best
            seconds = spent + run.metrics.seconds("random search")
            note = "weights of the supernet, as many evaluations"
            right[_RANDOM] = self._enter(_RANDOM, run.net, seconds, note, best)
        self._retrained()
        spent += run.metrics.seconds("search")
        right[self._name()] = self._enter(self._name(), run.net, spent, self._note(), self.found.chosen)
        if self.config.finetune_epochs:
            note = f"{self.config.finetune_epochs} further epochs alone"
            right[self._tuned_name()] = self._enter(
                self._tuned_name(), run.tune(), spent + run.metrics.seconds("fine-tuning"), note
            )
        self._conclude("val", right)

    def test(self) -> None:
        """Look at the test images, once: the figures of everything that was compared."""
        run = self.run
        if run.metrics.tested or run.data.test is None:  # in this order: asking for the images decodes them
            return
        run.progress.say("test: the held-out images are looked at now, once")
        found: dict[str, list[Score]] = {}
        for baseline in self._baselines():
            found[baseline.method] = [self._score(self._trained(baseline), test=True)]
        if self._compared:
            found[_RANDOM] = [self._score(run.net, run.random_search().best, test=True)]
        structures = self._legal_structures()
        bar = run.progress.bar("test", len(structures) + 1)
        for i, structure in enumerate(structures):
            found.setdefault(self._random_name(), []).append(self._score(run.net, structure, test=True))
            bar(i + 1, "")
        found[self._name()] = [self._score(run.net, self.found.chosen, test=True)]
        if self.config.finetune_epochs:
            found[self._tuned_name()] = [self._score(run.tune(), test=True)]
        bar(len(structures) + 1, "")
        # What is said of the test comes before the mark that it was done, which is never taken back.
        self._conclude("test", {name: _right(s[0]) for name, s in found.items() if name != self._random_name()})
        run.metrics.test({name: [one.accuracy for one in parts] for name, parts in found.items()})

    def _name(self) -> str:
        if not self.searched:
            return f"fixed structure {self.config.space}"
        return "searched subnet" if self.found.soup is None else "searched soup"

    def _note(self) -> str:
        if not self.searched:
            return f"trained alone for {self.config.epochs} epochs"
        if self.found.soup is None:
            smallest = ", the smallest that is not distinguishably worse" if self.config.select == "smallest" else ""
            return f"weights of the supernet{smallest}"
        over = self.config.limit is not None and self.size > self.config.limit
        limit = "; the budget holds for each of them" if over else ""
        return f"mean of {len(self.found.soup.weights)} subnets' weights, chosen on the validation images{limit}"

    def _fold_stages(self) -> list[str]:
        folds = self.config.folds if self.config.fitness.startswith("cv") else 0
        return [f"fold {index + 1} of {folds}" for index in range(folds)]

    def _tuned_name(self) -> str:
        return f"{self._name()}, fine-tuned"

    def _random_name(self) -> str:
        return f"{self.config.random_subnets} random subnets, mean"

    def _epochs(self) -> int:
        """What a baseline is trained for: as long as the supernet and the fine-tuning together."""
        return self.config.epochs + self.config.finetune_epochs

    def _alone(self) -> str:
        return f"trained alone for {self._epochs()} epochs"

    def _baselines(self) -> tuple[_Baseline, ...]:
        if not self._compared:
            return ()
        net, size = self.run.net, self.size
        rank = lora_rank(net, size)
        found = (
            _Baseline("linear probe", presets.frozen()),
            _Baseline(f"uniform LoRA, rank {rank}", presets.lora(rank)),
        )
        if self.config.baselines != "all":
            return found
        vectors = LayerStructure(C=Form.VECTOR, D=Form.VECTOR)
        rest = size - SearchSpace.point(vectors).bind(net.bound.shapes, net.bound.bias).largest
        scaled = lora_rank(net, rest)
        return (
            *found,
            _Baseline("BitFit", presets.bitfit()),
            _Baseline("SSF", presets.ssf()),
            _Baseline(
                f"uniform A rank {scaled}, C and D vectors",
                SearchSpace.point(LayerStructure(A=Form.low_rank(scaled), C=Form.VECTOR, D=Form.VECTOR)),
            ),
        )

    def _trained(self, baseline: _Baseline) -> GLoRAModel:
        run, path = self.run, self._file(baseline)
        net = run.adapted(baseline.space)
        if not path.is_file():
            path.parent.mkdir(exist_ok=True)
            state = path.with_suffix(".state.safetensors")
            run.fit(net, baseline.method, state, self.config.train_settings(self._epochs()))
            save_supernet(net, path, run.extra())
            state.unlink(missing_ok=True)
        load_supernet(net, path)
        return net

    def _file(self, baseline: _Baseline) -> Path:
        return self.run.folder / "baselines" / f"{baseline.method.replace(',', '').replace(' ', '-')}.safetensors"

    def _score(self, net: GLoRAModel, what: Structure | Soup | None = None, test: bool = False) -> Score:
        samples = self.run.data.test if test else self.run.data.val
        assert samples is not None
        evaluator = Evaluator(net, samples, self.config.eval_batch_size, self._precision)
        return evaluator(net.active if what is None else what)

    def _enter(
        self, method: str, net: GLoRAModel, seconds: float, note: str, what: Structure | Soup | None = None
    ) -> str:
        """Enter the validation figures of a method; what it is right on."""
        found = self._score(net, what)
        what = net.active if what is None else what
        size = self.size if isinstance(what, Soup) else net.size(what)
        self.run.metrics.row(Row(method, found.accuracy, size, seconds, note))
        return _right(found)

    def _conclude(self, part: str, right: dict[str, str]) -> None:
        """Keep what each method is right on; say by how much ours is better, and whether that is more than noise."""
        metrics = self.run.metrics
        path = self.run.folder / "correct.json"
        write_json(path, (json.loads(path.read_text("utf-8")) if path.is_file() else {"format": 1}) | {part: right})
        rows = {row["method"]: row for row in metrics.values["table"]}
        if not self._compared or not rows or (part == "val" and metrics.tested):
            return
        last = self._tuned_name() if self.config.finetune_epochs else self._name()
        gains = {b.method: gain(right[last], right[b.method], b.method) for b in self._baselines()}
        gains[_RANDOM] = gain(right[self._name()], right[_RANDOM], _RANDOM)
        # The strongest of at least our size by validation, never by the test images.
        rivals = [b.method for b in self._baselines() if rows[b.method]["parameters"] >= self.size]
        rival = max(rivals, key=lambda method: float(rows[method]["val_accuracy"]))
        sizes, named = (self.size, int(rows[rival]["parameters"])), {"val": "validation"}.get(part, part)
        metrics.update(
            gains=metrics.values.get("gains", {}) | {part: [one.to_dict() for one in gains.values()]},
            verdict=verdict(gains[rival], gains[_RANDOM], named, sizes),
        )

    def _retrained(self) -> None:
        """Train a few structures alone for a while, and enter how well their ranks in the supernet agree with that."""
        run, config = self.run, self.config
        if not self.searched or config.tau == 0:
            return
        generator = random.Random(f"tau {config.seed}")
        structures = [legal_sample(run.net.bound, config.limit, generator) for _ in range(config.tau)]
        known: list[dict[str, float]] = run.metrics.values.get("retrained", [])
        for i, structure in enumerate(structures[len(known) :], len(known)):
            state = run.folder / f"retrained-{i + 1}.state.safetensors"
            net = run.adapted(SearchSpace.of(structure))
            run.fit(net, f"retrained {i + 1} of {config.tau}", state, config.train_settings(config.tau_epochs))
            scores = {"supernet": self._score(run.net, structure), "alone": self._score(net)}
            known = [*known, {name: one.accuracy for name, one in scores.items()}]
            run.metrics.update(retrained=known)
            state.unlink(missing_ok=True)
        found = kendall_tau([one["supernet"] for one in known], [one["alone"] for one in known])
        gap = statistics.mean(one["alone"] - one["supernet"] for one in known)
        run.metrics.update(tau={"value": found, "gap": gap, "structures": config.tau, "epochs": config.tau_epochs})

    def _legal_structures(self) -> list[Structure]:
        if not self.searched:
            return []
        generator = random.Random(f"random subnets {self.config.seed}")
        count = range(self.config.random_subnets)
        return [legal_sample(self.run.net.bound, self.config.limit, generator) for _ in count]

    def _random_subnets(self) -> None:
        run, structures = self.run, self._legal_structures()
        if not structures or run.metrics.has(self._random_name()):
            return
        evaluator = Evaluator(run.net, run.data.val, self.config.eval_batch_size, self._precision)
        bar = run.progress.bar("random subnets", len(structures))
        accuracies: list[float] = []
        for i, structure in enumerate(structures):
            accuracies.append(evaluator(structure).accuracy)
            bar(i + 1, f"mean {statistics.mean(accuracies):.1%}")
        size = round(statistics.mean(run.net.size(structure) for structure in structures))
        seconds, mean = run.metrics.seconds("supernet"), statistics.mean(accuracies)
        row = Row(self._random_name(), mean, size, seconds, "weights of the supernet")
        run.metrics.row(row, statistics.pstdev(accuracies))


def _right(score: Score) -> str:
    """What a model is right on, an image a character: 1 right, 0 wrong."""
    return bits(score.right, score.samples)


def lora_rank(net: GLoRAModel, size: int) -> int:
    """The smallest rank at which a uniform LoRA on the adapted layers has at least ``size`` parameters."""
    per_rank = sum(layer.shape.out_features + layer.shape.in_features for layer in net.layers.values())
    return max(1, -(-size // per_rank))
