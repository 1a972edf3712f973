"""What a run says of its models at the start: what they came with that is off, on, or left out."""

from __future__ import annotations

from hone.config import OnlineConfig, SFTConfig
from hone.engine.beside import value_settings
from hone.model import balancing, dropout
from hone.model.composite import left_out
from hone.model.load import configured, resolve


def model_notices(config: SFTConfig | OnlineConfig) -> list[str]:
    """What to tell of the dropout, the balancing loss and the other parts that the run's models came with."""
    found: list[str] = []
    for settings in filter(None, (config.policy, value_settings(config))):
        own = configured(
            resolve(settings.model_name),
            settings.hf_config_overrides,
            trust_remote_code=settings.trust_remote_code,
        )
        found += dropout.notice(own, off=settings.disable_dropout, part=settings.part)
        found += left_out(settings.model_name, own)
        found += balancing.notice(own, settings.router_aux_loss_coef, part=settings.part)
    return found
