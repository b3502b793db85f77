"""Search spaces with one point: known methods as structures, for ordinary fixed-structure fine-tuning.

Each holds exactly: see the table in docs/method.md and the tests beside their definitions.
"""

from __future__ import annotations

from glora.space import SearchSpace
from glora.structure import Form, LayerStructure

__all__ = ["bitfit", "frozen", "ia3", "lora", "prompt", "repadapter", "ssf"]


def lora(rank: int) -> SearchSpace:
    """LoRA (arXiv 2106.09685): B low-rank, without a further scale."""
    return SearchSpace.point(LayerStructure(B=Form.low_rank(rank)))


def ssf() -> SearchSpace:
    """SSF (arXiv 2210.08823) on a linear layer, y = gamma * (W0 x + b0) + beta.

    A and D are both gamma - 1 and E is beta; A and D are separate parameters here, of which SSF ties the two.
    """
    return SearchSpace.point(LayerStructure(A=Form.VECTOR, D=Form.VECTOR, E=Form.VECTOR))


def ia3() -> SearchSpace:
    """(IA)^3 (arXiv 2205.05638) on a layer's output: A and D are both l - 1 (separate parameters here)."""
    return SearchSpace.point(LayerStructure(A=Form.VECTOR, D=Form.VECTOR))


def bitfit() -> SearchSpace:
    """BitFit (arXiv 2106.10199): E, a trained shift of the bias."""
    return SearchSpace.point(LayerStructure(E=Form.VECTOR))


def prompt() -> SearchSpace:
    """A layer-wise prompt seen through W0: C a vector; what VPT-Deep (arXiv 2203.12119) is to a linear layer."""
    return SearchSpace.point(LayerStructure(C=Form.VECTOR))


def repadapter(rank: int) -> SearchSpace:
    """RepAdapter (arXiv 2302.08106), merged form W0 (x + A_d A_u x) + W0 c: A multiplicative, C a vector."""
    return SearchSpace.point(LayerStructure(A=Form("mul", rank), C=Form.VECTOR))


def frozen() -> SearchSpace:
    """No support tensor at all: the frozen backbone, a linear probe."""
    return SearchSpace.point(LayerStructure())
