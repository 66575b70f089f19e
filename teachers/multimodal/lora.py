"""LoRA (Hu et al. 2021, arXiv 2106.09685) through `peft`: encoders that learn in few parameters.

Adapters live only while a teacher learns. What is saved has them merged into the weights, so that
it loads and labels without `peft`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from wav2small.errors import Wav2SmallError


@dataclass(frozen=True)
class Adapter:
    """How an encoder is adapted.

    Example:
        >>> Adapter(rank=8, alpha=32).of_rank(4)
        Adapter(rank=4, alpha=16, layers=())
    """

    rank: int = 8  # of what the adapters add to a weight (chosen)
    alpha: int = 16  # alpha / rank scales what they add; twice the rank (chosen)
    #: Last parts of the names of the linear layers that get one; empty = all.
    layers: tuple[str, ...] = ()

    def of_rank(self, rank: int) -> Adapter:
        """The same of another rank, 0 = its own, with what is added scaled alike.

        Raises:
            Wav2SmallError: a rank below 0
        """
        if rank < 0:
            raise Wav2SmallError(f"--lora {rank}: give a rank of at least 1, such as 8")
        rank = rank or self.rank
        return replace(self, rank=rank, alpha=max(1, round(self.alpha * rank / self.rank)))


def adapt(model: nn.Module, adapter: Adapter) -> None:
    """Freeze a model and put adapters next to its linear layers, in place.

    Raises:
        Wav2SmallError: `peft` is not installed, or there is nothing to adapt
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        message = "--lora needs peft, which is not installed: pip install peft"
        raise Wav2SmallError(message) from error
    names = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    if adapter.layers:
        names = [name for name in names if name.rpartition(".")[2] in adapter.layers]
    if not names:
        raise Wav2SmallError("--lora: an encoder has no linear layers; train it without")
    model.requires_grad_(False)
    # peft takes names by their ends; full names match nothing else.
    settings: Any = LoraConfig(r=adapter.rank, lora_alpha=adapter.alpha, target_modules=names)
    inject_adapter_in_model(settings, model)


def merged(network: nn.Module) -> dict[str, Tensor]:
    """The state dict of a network as it would be without adapters that learned the same."""
    state = {
        key.replace(".base_layer.", "."): value
        for key, value in network.state_dict().items()
        if ".lora_" not in key
    }
    for name, layer in network.named_modules():
        if hasattr(layer, "base_layer") and hasattr(layer, "get_delta_weight"):
            deltas: Any = [layer.get_delta_weight(one) for one in layer.active_adapters]
            state[f"{name}.weight"] = layer.base_layer.weight + sum(deltas)
    return state
