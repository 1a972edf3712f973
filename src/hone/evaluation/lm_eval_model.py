"""Hone's model class for lm-evaluation-harness, and the harness's own command with it.

    python -m hone.evaluation.lm_eval_model run --model hone --model_args pretrained=MODEL --tasks arc_easy

`model_args` takes settings of `hone eval` too, such as `generation.precision=float32`. Texts are tokenised as the
harness's own class for Hugging Face models does; log-likelihoods are the learner's, answers the generator's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import has_bos_prefix
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from hone.config import EvalConfig, load
from hone.engine.build import EvalGenerator, as_scorer, open_generator
from hone.engine.local.local_engine import tokenizer_of
from hone.evaluation.extraction import cut_at
from hone.rollout.sampler import sampling_from
from hone.types import Prompt, Sample, Sampling

Pair = tuple[Any, list[int], list[int]]
"""A request's key, the tokens of its context, and those of its continuation."""
DEFAULT_NEW_TOKENS = 256
"""The harness's own default."""


@register_model("hone")
class HoneLM(TemplateLM):
    """A model with Hone's generator and learner. `batch_size` and `device` are arguments that the harness passes."""

    def __init__(
        self, pretrained: str = "hone/tiny-sft", batch_size: Any = None, device: Any = None, **settings: Any
    ) -> None:
        super().__init__()
        given = {"generation.model_name": pretrained, **settings}
        given |= {"generation.batch_size": batch_size} if isinstance(batch_size, int) else {}
        given.pop("max_batch_size", None)
        config = load("eval", None, [f"{key}={value}" for key, value in given.items()]).config
        self._opened = contextlib.ExitStack()
        tokenizer = tokenizer_of(config)
        self._use(config, tokenizer, self._opened.enter_context(open_generator(config, tokenizer)))

    @classmethod
    def of(cls, config: EvalConfig, tokenizer: Any, generator: EvalGenerator) -> HoneLM:
        """The model of an evaluation whose generator is open."""
        model = cls.__new__(cls)
        TemplateLM.__init__(model)
        model._use(config, tokenizer, generator)
        return model

    def _use(self, config: EvalConfig, tokenizer: Any, generator: EvalGenerator) -> None:
        self.config, self.tokenizer, self.generator = config, tokenizer, generator
        self.max_length = config.generation.max_model_len
        self._scorer: Any = None

    @property
    def scorer(self) -> Any:
        """The model as a frozen learner, from the first log-likelihood on."""
        if self._scorer is None:
            self._scorer = as_scorer(self.config, self.tokenizer, self.generator)
        return self._scorer

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        return str(self.config.tokenizer.name).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """The tokens of a text, with the tokenizer's own special tokens unless the text begins with one."""
        if add_special_tokens is None and has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id)):
            add_special_tokens = False
        special = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer.encode(string, **special))

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as text; without a generation prompt its last message is continued."""
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    def _loglikelihood_tokens(
        self, requests: Sequence[Pair], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """The log-likelihood of each continuation, and whether it is what greedy decoding gives."""
        samples = [self._sample(i, *pair[1:]) for i, pair in enumerate(requests)]
        logprobs = asyncio.run(self.scorer.forward(samples))
        best = asyncio.run(self.scorer.topk_logprobs(samples, 1))
        found = []
        for sample, own_T, (_, top_T1) in zip(samples, logprobs, best, strict=True):
            targets_T = sample.tokens_T[sample.loss_mask_T]
            found.append((float(own_T.sum()), bool((targets_T == top_T1[:, 0]).all())))
        return found

    def _sample(self, number: int, context: list[int], continuation: list[int]) -> Sample:
        tokens = (context + continuation)[-self.max_length :]
        start = max(1, len(tokens) - len(continuation))
        mask_T = torch.arange(len(tokens)) >= start
        return Sample(
            str(number), torch.tensor(tokens), mask_T, group=str(hash(tuple(context))), prefix=start
        )

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of whole texts, in windows of the model's length that share one token."""
        sums = []
        for request in requests:
            windows: Iterable[Any] = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length - 1,
                context_len=1,
            )
            pairs = [(None, *make_disjoint_window(window)) for window in windows]
            sums.append(sum(value for value, _ in self._loglikelihood_tokens(pairs)))
        return sums

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers, each cut at the first of its request's stop texts."""
        answers: list[str] = []
        groups: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items(), key=repr)), []).append(i)
        texts: dict[int, str] = {}
        for numbers in groups.values():
            given = dict(requests[numbers[0]].args[1])
            texts |= dict(
                zip(numbers, self._answers([requests[i].args[0] for i in numbers], given), strict=True)
            )
        answers += [texts[i] for i in range(len(requests))]
        return answers

    def _answers(self, contexts: Sequence[str], given: Mapping[str, Any]) -> list[str]:
        sampling, stop = self._sampling(given)
        room = max(1, self.max_length - sampling.max_new_tokens)
        prompts = [
            Prompt(f"lm_eval:{i}", tuple(self.tok_encode(text)[-room:]), text)
            for i, text in enumerate(contexts)
        ]
        completions = asyncio.run(self.generator.generate(prompts, sampling))
        texts = self.tokenizer.batch_decode(
            [list(c.tokens) for (c,) in completions], skip_special_tokens=True
        )
        return [cut_at(text, stop) for text in texts]

    def _sampling(self, given: Mapping[str, Any]) -> tuple[Sampling, list[str]]:
        """The sampling of a request's `generation_kwargs`, and its stop texts."""
        until = given.get("until") or []
        stop = [text for text in ([until] if isinstance(until, str) else until) if text]
        limit = next(
            (given[k] for k in ("max_gen_toks", "max_new_tokens", "max_tokens") if given.get(k)), None
        )
        base = sampling_from(self.config.generation, self.config.eval.seed)
        temperature = float(given.get("temperature") or 0.0) if given.get("do_sample", True) else 0.0
        sampling = Sampling(
            max_new_tokens=int(limit or DEFAULT_NEW_TOKENS),
            temperature=temperature,
            top_p=float(given.get("top_p") or 1.0),
            top_k=int(given["top_k"]) if given.get("top_k") else None,
            stop_token_ids=base.stop_token_ids,
            stop_strings=tuple(stop),
            seed=base.seed,
        )
        return sampling, stop


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
