"""What a found subnet must beat, under equal conditions: linear probe, uniform LoRA, random subnets."""

from __future__ import annotations

import random
import statistics
from pathlib import Path
from typing import NamedTuple

from glora import presets
from glora.checkpoint import load_supernet, save_supernet
from glora.evaluate import Evaluator, evaluate
from glora.metrics import Row
from glora.model import GLoRAModel
from glora.run import Run
from glora.space import SearchSpace
from glora.strategies import Score, legal_sample
from glora.structure import Structure

__all__ = ["Comparison", "lora_rank"]


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
        self.structure = run.search().best
        self.size = run.search().winner.size
        self.searched = run.net.bound.cardinality > 1
        self._precision = run.config.train_settings().precision

    def validate(self) -> None:
        """Train the baselines, or read the finished ones, and enter all validation figures."""
        run = self.run
        if self.config.baselines and self.searched:
            for baseline in self._baselines():
                net = self._trained(baseline)
                score = self._score(net, net.active)
                seconds = run.metrics.seconds(baseline.method)
                run.metrics.row(Row(baseline.method, score.accuracy, net.size(net.active), seconds, self._alone()))
        self._random_subnets()
        best = run.search().winner
        trained = run.metrics.seconds("supernet") + run.metrics.seconds("search")
        note = "weights of the supernet" if self.searched else f"trained alone for {self.config.epochs} epochs"
        run.metrics.row(Row(self._name(), best.score.accuracy, self.size, trained, note))
        if self.config.finetune_epochs:
            net = run.tune()
            seconds = trained + run.metrics.seconds("fine-tuning")
            note = f"{self.config.finetune_epochs} further epochs alone"
            run.metrics.row(Row(self._tuned_name(), self._score(net, net.active).accuracy, self.size, seconds, note))

    def test(self) -> None:
        """Look at the test images, once: the figures of everything that was compared."""
        run = self.run
        if run.metrics.tested or run.data.test is None:  # in this order: asking for the images decodes them
            return
        run.progress.say("test: the held-out images are looked at now, once")
        supernet = Evaluator(run.net, run.data.test, self.config.eval_batch_size, self._precision)
        scores: dict[str, list[Score]] = {}
        if self.config.baselines and self.searched:
            for baseline in self._baselines():
                net = self._trained(baseline)
                scores[baseline.method] = [self._score(net, net.active, test=True)]
        structures = self._legal_structures()
        bar = run.progress.bar("test", len(structures) + 1)
        for i, structure in enumerate(structures):
            scores.setdefault(self._random_name(), []).append(supernet(structure))
            bar(i + 1, "")
        scores[self._name()] = [supernet(self.structure)]
        if self.config.finetune_epochs:
            scores[self._tuned_name()] = [self._score(run.tune(), run.tune().active, test=True)]
        bar(len(structures) + 1, "")
        run.metrics.test({method: [score.accuracy for score in found] for method, found in scores.items()})

    def _name(self) -> str:
        return "searched subnet" if self.searched else f"fixed structure {self.config.space}"

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
        rank = lora_rank(self.run.net, self.size)
        return (
            _Baseline("linear probe", presets.frozen()),
            _Baseline(f"uniform LoRA, rank {rank}", presets.lora(rank)),
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

    def _score(self, net: GLoRAModel, structure: Structure, test: bool = False) -> Score:
        samples = self.run.data.test if test else self.run.data.val
        assert samples is not None
        with net.folded(structure):
            return evaluate(net, samples, self.config.eval_batch_size, self._precision)

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


def lora_rank(net: GLoRAModel, size: int) -> int:
    """The smallest rank at which a uniform LoRA on the adapted layers has at least ``size`` parameters."""
    per_rank = sum(layer.shape.out_features + layer.shape.in_features for layer in net.layers.values())
    return max(1, -(-size // per_rank))
