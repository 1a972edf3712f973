"""Wrong settings and wrong data: one message that names the thing and the fix, before a model loads."""

from __future__ import annotations

import json
import shutil

import pytest
from processes import make_tokenizer, sums, write_rows

from tests.integration.bad_input.conftest import GRPO, SFT, fails


def test_a_mistyped_key(place):
    fails(
        *SFT,
        "policy.train_globl_batch_size=4",
        cwd=place,
        code=2,
        says=("train_globl_batch_size", "train_global_batch_size"),
    )


def test_a_wrong_type(place):
    fails(*SFT, "sft.max_num_steps=many", cwd=place, code=2, says=("sft.max_num_steps", "many"))


def test_several_mistakes_are_told_at_once(place):
    fails(
        *SFT, "sft.val_peroid=4", "sft.seed=-1", cwd=place, code=2, lines=3, says=("val_period", "sft.seed")
    )


@pytest.mark.parametrize("kind", [SFT, GRPO])
def test_a_batch_that_does_not_divide(kind, place):
    argv = (*kind, "policy.train_global_batch_size=8", "policy.train_micro_batch_size=3")
    fails(
        *argv, cwd=place, code=2, says=("policy.train_global_batch_size=8", "policy.train_micro_batch_size=3")
    )


def test_rollouts_that_do_not_divide(place):
    argv = (*GRPO, "policy.train_global_batch_size=3", "policy.train_micro_batch_size=1")
    fails(*argv, cwd=place, code=2, says=("grpo.num_prompts_per_step=2", "policy.train_global_batch_size=3"))


def test_a_config_file_that_is_not_there(place):
    fails("sft", "--config", "nowhere.yaml", cwd=place, code=2, says=("nowhere.yaml",))


def test_a_config_file_that_is_no_yaml(place):
    (place / "broken.yaml").write_text("sft: {max_num_steps: [1\n")
    fails("sft", "--config", "broken.yaml", cwd=place, code=2, says=("broken.yaml",))


@pytest.mark.parametrize("kind", [SFT, GRPO])
def test_a_data_file_that_is_not_there(kind, place):
    fails(
        *kind,
        "data.train.dataset_name=nowhere.jsonl",
        cwd=place,
        says=("there is no file or folder nowhere.jsonl",),
    )


@pytest.mark.parametrize("kind", [SFT, GRPO])
@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_dataset(kind, text, place):
    (place / "empty.jsonl").write_text(text)
    fails(*kind, "data.train.dataset_name=empty.jsonl", cwd=place, says=("empty.jsonl", "no rows"))


def test_an_empty_validation_set(place):
    (place / "empty.jsonl").write_text("")
    fails(*SFT, "data.validation.dataset_name=empty.jsonl", cwd=place, says=("empty.jsonl", "no rows"))


def test_a_row_without_the_column(place):
    rows = sums(5)
    del rows[3]["completion"]
    del rows[3]["answer"]
    write_rows(place / "gap.jsonl", rows)
    fails(*SFT, "data.train.dataset_name=gap.jsonl", cwd=place, says=("gap.jsonl", "row 3", "completion"))


def test_a_line_that_is_no_json(place):
    (place / "torn.jsonl").write_text(json.dumps(sums(1)[0]) + '\n{"prompt": "What\n')
    fails(*SFT, "data.train.dataset_name=torn.jsonl", cwd=place, says=("torn.jsonl", "2"))


def test_columns_that_no_format_has(place):
    write_rows(place / "odd.jsonl", [{"left": "a", "right": "b"}])
    fails(*SFT, "data.train.dataset_name=odd.jsonl", cwd=place, says=("odd.jsonl", "left", "right"))


def test_a_column_that_the_reward_needs(place):
    write_rows(place / "bare.jsonl", [{"prompt": row["prompt"]} for row in sums(8)])
    argv = (*GRPO, "data.train.dataset_name=bare.jsonl", "rewards.functions=[{name: answer}]")
    fails(*argv, cwd=place, says=("reward 'answer' needs the column 'answer'", "columns"))


def test_a_prompt_longer_than_the_context(place):
    rows = sums(4)
    rows[2]["prompt"] = "What is it? " * 100
    write_rows(place / "long.jsonl", rows)
    fails(
        *GRPO,
        "data.train.dataset_name=long.jsonl",
        cwd=place,
        says=("long.jsonl", "row 2", "policy.max_total_sequence_length=64", "data.overlong_prompts=drop"),
    )


def test_answers_that_no_room_is_left_for(place):
    write_rows(place / "all_long.jsonl", [{"prompt": "What is it? " * 100, "completion": "7"}])
    argv = (*SFT, "data.train.dataset_name=all_long.jsonl")
    fails(*argv, cwd=place, says=("all_long.jsonl", "64 tokens", "policy.max_total_sequence_length"))


def test_conversations_without_a_chat_template(place):
    make_tokenizer(["What is 1 plus 2?"], template=None).save_pretrained(place / "plain")
    talk = [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}]
    write_rows(place / "talk.jsonl", talk * 4)
    argv = (*SFT, "data.train.dataset_name=talk.jsonl", "policy.tokenizer.name=plain")
    fails(*argv, cwd=place, says=("chat template", "policy.tokenizer.chat_template"))


class TestModel:
    def test_a_folder_that_is_not_there(self, place):
        fails(*SFT, "policy.model_name=./nowhere", cwd=place, says=("./nowhere does not exist",))

    def test_a_name_that_is_neither_a_folder_nor_reachable(self, place):
        fails(*SFT, "policy.model_name=nobody/nothing", cwd=place, says=("nobody/nothing",))

    def test_a_folder_that_is_no_model(self, place):
        (place / "hollow").mkdir(exist_ok=True)
        fails(*SFT, "policy.model_name=hollow", cwd=place, says=("hollow", "config.json"))

    def test_weights_that_are_not_there(self, place):
        shutil.copytree(place / "model", place / "weightless", dirs_exist_ok=True)
        (place / "weightless" / "model.safetensors").unlink()
        fails(*SFT, "policy.model_name=weightless", cwd=place, says=("weightless", "no weights"))

    def test_weights_cut_short(self, place):
        shutil.copytree(place / "model", place / "torn_model", dirs_exist_ok=True)
        file = place / "torn_model" / "model.safetensors"
        file.write_bytes(file.read_bytes()[:5000])
        fails(*SFT, "policy.model_name=torn_model", cwd=place, says=("cannot load model torn_model",))

    def test_a_context_longer_than_the_model(self, place):
        argv = (*SFT, "policy.max_total_sequence_length=2048")
        fails(*argv, cwd=place, code=2, says=("policy.max_total_sequence_length=2048", "1024"))

    def test_an_optimizer_that_does_not_exist(self, place):
        argv = (*SFT, "policy.optimizer.name=torch.optim.Adamw")
        fails(*argv, cwd=place, code=2, says=("torch.optim.Adamw",))

    def test_an_optimizer_argument_that_does_not_exist(self, place):
        argv = (*SFT, "+policy.optimizer.kwargs.momentun=0.9")
        fails(*argv, cwd=place, code=2, says=("momentun",))


class TestEvaluation:
    ARGV = ("eval", "generation.model_name=model", "data.dataset_name=validation.jsonl")

    def test_k_above_the_samples(self, place):
        fails(
            *self.ARGV,
            "eval.k_value=2",
            "eval.num_tests_per_prompt=1",
            cwd=place,
            code=2,
            says=("eval.k_value=2", "eval.num_tests_per_prompt=1"),
        )

    def test_a_vote_that_does_not_divide(self, place):
        argv = (*self.ARGV, "eval.metric=cons@k", "eval.k_value=2", "eval.num_tests_per_prompt=3")
        fails(
            *argv,
            "generation.temperature=1.0",
            cwd=place,
            code=2,
            says=("eval.num_tests_per_prompt=3", "eval.k_value=2"),
        )

    def test_a_report_that_cannot_be_written(self, place):
        (place / "occupied").write_text("")
        fails(
            *self.ARGV, "eval.save_path=occupied", cwd=place, code=2, says=("eval.save_path=occupied", "file")
        )

    def test_a_checkpoint_is_no_model(self, place):
        fails(
            "eval", "generation.model_name=./gone", *self.ARGV[2:], cwd=place, says=("./gone does not exist",)
        )
