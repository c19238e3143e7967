"""Layers that keep a state of fixed size for each sequence, instead of something for each token.

State-space layers (Mamba 1 and 2), linear attention (gated delta net, Kimi's) and short
convolutions. vLLM keeps the states in blocks of the KV cache: one for each running sequence, more
where prefixes are cached.

Source: vLLM `model_executor/layers/mamba/mamba_utils.py` (`MambaStateShapeCalculator`,
`MambaStateDtypeCalculator`) and each model's `get_mamba_state_shape_from_config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from objectives.models.config import HIDDEN, Config, cannot_tell, number, required

_WIDE = ("float32", "float")


@dataclass(frozen=True, kw_only=True)
class RecurrentLayers:
    """The recurrent layers of a model, all alike.

    Attributes:
        count: How many there are.
        channels: Of the convolution, over all devices, without those of the groups.
        taps: Tokens that the convolution remembers.
        values: Of the recurrent state of one sequence and layer, over all devices.
        groups, group_channels: Channels that heads share: every device needs a whole group.
        wide: The recurrent state is kept in 32 bits unless another type is asked for.
        parameters: Of one layer, its feed-forward block left out.
    """

    count: int
    channels: int
    taps: int
    values: int = 0
    groups: int = 0
    group_channels: int = 0
    wide: bool = False
    parameters: int = 0

    def state_bytes(
        self, dtype_bytes: int, tp: int = 1, *, conv: str, state: str, speculated: int = 0
    ) -> int:
        """Bytes of one sequence in one layer, on one of `tp` devices.

        Args:
            dtype_bytes: Of the model's own type.
            tp: Devices that share the model.
            conv: `--mamba-cache-dtype`, of the convolution; "auto" is the model's type.
            state: `--mamba-ssm-cache-dtype`, of the recurrent state; "auto" is the family's own.
            speculated: Tokens that a draft proposes: the convolution remembers them as well.
        """
        narrow = _width(conv, dtype_bytes)
        wide = _width(state, 4 if self.wide else narrow)
        missing = 0 if self.groups % tp == 0 else tp - self.groups
        channels = self.channels + (self.groups + missing) * self.group_channels
        held = (self.taps + speculated) * (channels // tp) * narrow
        return held + self.values // tp * wide


def _width(name: str, auto: int) -> int:
    return auto if name == "auto" else 4 if name in _WIDE else 2


def recurrent_of(config: Config, count: int) -> RecurrentLayers | None:
    """The recurrent layers that a configuration describes; None where it has none.

    Raises:
        UnsupportedShapeError: for a kind of state that is not known here.
    """
    if count == 0:
        return None
    hidden = required(config, HIDDEN, "hidden size")
    for read in (_gated_delta, _kimi, _mamba2, _mamba1, _short_convolution, _lightning):
        found = read(config, hidden, count)
        if found is not None:
            return found
    kind = config.get("model_type") or "the model"
    raise cannot_tell(f"the state that recurrent layers of {kind} keep is not known here")


def _gated_delta(config: Config, hidden: int, count: int) -> RecurrentLayers | None:
    """Qwen3-Next, Qwen3.5, OLMo hybrid."""
    if not config.get("linear_num_value_heads"):
        return None
    values = required(config, ("linear_num_value_heads",), "number of value heads")
    key_dim = required(config, ("linear_key_head_dim",), "width of a key")
    value_dim = required(config, ("linear_value_head_dim",), "width of a value")
    keys_width = key_dim * required(config, ("linear_num_key_heads",), "number of key heads")
    values_width = values * value_dim
    taps = number(config, ("linear_conv_kernel_dim",)) or 4
    channels = 2 * keys_width + values_width
    inward = channels + values_width + 2 * values  # the gate, and two numbers for each head
    return RecurrentLayers(
        count=count,
        channels=channels,
        taps=taps - 1,
        values=values * value_dim * key_dim,
        wide=str(config.get("mamba_ssm_dtype")) in _WIDE,
        parameters=hidden * (inward + values_width) + channels * taps,
    )


def _kimi(config: Config, hidden: int, count: int) -> RecurrentLayers | None:
    """Kimi's delta attention: its state is always kept in 32 bits."""
    stated = config.get("linear_attn_config")
    known: Config = stated if isinstance(stated, Mapping) else {}
    heads = number(known, ("num_heads",)) or number(config, ("linear_num_heads",))
    dim = number(known, ("head_dim",)) or number(config, ("linear_head_dim",))
    if heads is None or dim is None:
        return None
    taps = number(known, ("short_conv_kernel_size",))
    taps = taps or number(config, ("linear_conv_kernel_dim",)) or 4
    width = heads * dim
    gates = 2 * dim * (hidden + width) + hidden * heads  # two of low rank, and one for each head
    return RecurrentLayers(
        count=count,
        channels=3 * width,
        taps=taps - 1,
        values=width * dim,
        wide=True,
        parameters=4 * hidden * width + gates + 3 * width * taps,
    )


def _mamba2(config: Config, hidden: int, count: int) -> RecurrentLayers | None:
    """Nemotron-H, Granite 4, Bamba, Falcon-H1, Zamba2 and Mamba 2 itself."""
    heads = number(config, ("mamba_n_heads", "mamba_num_heads", "n_mamba_heads"))
    if heads is None and str(config.get("model_type")) == "mamba2":
        heads = number(config, ("num_heads",))
    if heads is None:
        return None
    inner = number(config, ("mamba_d_ssm",)) or _expand(config) * hidden
    own = ("head_dim",) if config.get("model_type") == "mamba2" else ()
    dim = number(config, ("mamba_d_head", "mamba_head_dim", "mamba_headdim", *own))
    width = inner if dim is None else heads * dim
    state = required(config, ("mamba_d_state", "ssm_state_size", "state_size"), "state size")
    taps = number(config, ("mamba_d_conv", "conv_kernel")) or 4
    groups = number(config, ("mamba_n_groups", "mamba_ngroups", "n_groups")) or 1
    return RecurrentLayers(
        count=count,
        channels=width,
        taps=taps - 1,
        values=width * state,
        groups=groups,
        group_channels=2 * state,
        wide=_states_are_wide(config),
        parameters=hidden * (3 * width + 2 * groups * state + heads)
        + (width + 2 * groups * state) * taps,
    )


def _expand(config: Config) -> int:
    """How much wider than the model a state-space layer is."""
    return number(config, ("mamba_expand", "expand")) or 2


def _states_are_wide(config: Config) -> bool:
    """Nemotron-H keeps 32 bits unless its configuration says otherwise; the others the model's."""
    stated = config.get("mamba_ssm_cache_dtype")
    if stated is None:
        return str(config.get("model_type")) in ("nemotron_h", "nemotron_h_puzzle")
    return str(stated) in _WIDE


def _mamba1(config: Config, hidden: int, count: int) -> RecurrentLayers | None:
    """Jamba, Falcon-Mamba and Mamba itself."""
    state = number(config, ("mamba_d_state", "state_size"))
    if state is None:
        return None
    pure = number(config, ("intermediate_size", "d_inner")) if "state_size" in config else None
    width = pure or _expand(config) * hidden
    taps = number(config, ("mamba_d_conv", "conv_kernel")) or 4
    rank = number(config, ("mamba_dt_rank", "time_step_rank")) or -(-hidden // 16)
    return RecurrentLayers(
        count=count,
        channels=width,
        taps=taps - 1,
        values=width * state,
        parameters=width * (3 * hidden + 2 * rank + 3 * state + taps),
    )


def _short_convolution(config: Config, hidden: int, count: int) -> RecurrentLayers | None:
    """LFM2: a convolution over a few tokens, and no state beside it."""
    taps = number(config, ("conv_L_cache",))
    if taps is None:
        return None
    width = number(config, ("conv_dim",)) or hidden
    parameters = hidden * 3 * width + width * hidden
    return RecurrentLayers(count=count, channels=width, taps=taps - 1, parameters=parameters)


def _lightning(config: Config, hidden: int, count: int) -> RecurrentLayers | None:
    """MiniMax's linear attention: a matrix for each head."""
    if not str(config.get("model_type")).startswith("minimax"):
        return None
    heads = required(config, ("num_attention_heads",), "number of heads")
    dim = number(config, ("head_dim",)) or hidden // heads
    return RecurrentLayers(
        count=count,
        channels=0,
        taps=0,
        values=heads * dim * dim,
        parameters=5 * hidden * heads * dim,
    )
