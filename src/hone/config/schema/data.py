"""`data`: where rows come from and how they become prompts and targets."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from typing_extensions import Self

from hone.config.paths import LocalPath
from hone.config.schema.base import ConfigModel, Count, Derived, derived, section


class DatasetSource(ConfigModel):
    """One dataset and how its rows are read."""

    dataset_name: str | None = None
    """A file (JSONL, JSON, Parquet, CSV), a folder, a Hugging Face dataset, the embedded hone/word-problems, or your
    own class or function that yields rows: `my_data.py:MyDataset` or `pkg.module.MyDataset`."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Arguments of that class or function, such as `{data_path: rows.json}`."""
    subset: str | None = None
    """Configuration of a Hugging Face dataset, such as `main`."""
    split: str | None = None
    """Split to read; null: `train` for training, the first held-out split for validation."""
    seed: int | None = None
    """Seed of the split into training and validation rows; null: the run's."""
    limit: int | None = Field(None, ge=1)
    """Use only this many rows, the first ones."""
    input_key: str | None = None
    """Column of the prompt; null: detected from the columns."""
    output_key: str | None = None
    """Column of the answer; null: detected from the columns."""
    prompt_template: str | None = None
    """Text with `{column}` placeholders, such as "Human: {input}\\n\\nAssistant: {output}"."""
    prompt_file: LocalPath | None = None
    """File with a text in which `{}` is replaced by the prompt."""
    system_prompt_file: LocalPath | None = None
    """File with a system message for every prompt."""
    env_name: str | None = None
    """Name under `env` of the environment for these prompts; null: the environment of all prompts, if there is one."""


class DatasetEntry(DatasetSource):
    """One dataset of a mixture."""

    split_validation_size: float = Field(0.0, ge=0, lt=1)
    """data.train: fraction of the rows that is held out for validation."""
    weight: float = Field(1.0, gt=0)
    """Weight of this dataset in the mixture, relative to the others."""


def _entries(value: Any) -> Any:
    return [value] if isinstance(value, dict | DatasetEntry) else value


Entries = Annotated[list[DatasetEntry], BeforeValidator(_entries)]


class DataConfig(ConfigModel):
    """Training and validation data. `train` and `validation` each take one entry or a list of entries."""

    train: Annotated[Entries | None, BeforeValidator(_entries)] = None
    """Training data. (In Python: always a list.)"""
    validation: Annotated[Entries | None, BeforeValidator(_entries)] = None
    """Validation data; null: the rows held out by `split_validation_size`, if any."""
    default: DatasetEntry = section(DatasetEntry)
    max_input_seq_length: Derived[Count] = derived("${policy.max_total_sequence_length}")
    """Maximum tokens of a prompt."""
    overlong_prompts: Literal["error", "drop"] = "error"
    """Longer prompts: stop with an error, or drop and count them."""
    shuffle: bool = True
    """Shuffle the rows by the seed; false: keep the file's order."""
    add_bos: bool = True
    """Begin with the tokenizer's BOS token, if it has one and the chat template does not write it."""
    add_eos: bool = True
    """End a trained answer with the EOS token, if the chat template does not write it."""

    @model_validator(mode="after")
    def _apply_default(self) -> Self:
        for entry in [*(self.train or []), *(self.validation or [])]:
            for name in self.default.model_fields_set - entry.model_fields_set:
                setattr(entry, name, getattr(self.default, name))
        return self


class PreferenceEntry(DatasetEntry):
    """One dataset of comparisons. `input_key` is the prompt's column here."""

    chosen_key: str | None = None
    """Column of the better answer; null: detected from the columns."""
    rejected_key: str | None = None
    """Column of the worse answer; null: detected from the columns."""


def _preference_entries(value: Any) -> Any:
    return [value] if isinstance(value, dict | PreferenceEntry) else value


PreferenceEntries = Annotated[list[PreferenceEntry] | None, BeforeValidator(_preference_entries)]


class PreferenceDataConfig(DataConfig):
    """Comparisons to train and validate on. `train` and `validation` each take one entry or a list of entries."""

    train: PreferenceEntries = None  # type: ignore[assignment]
    """Training data. (In Python: always a list.)"""
    validation: PreferenceEntries = None  # type: ignore[assignment]
    """Validation data; null: the rows held out by `split_validation_size`, if any."""
    default: PreferenceEntry = section(PreferenceEntry)


class PromptDataConfig(DataConfig):
    """Prompts to sample completions for. `train` and `validation` each take one entry or a list of entries."""

    add_generation_prompt: bool = True
    """End a prompt with the chat template's opening of an assistant turn."""


class EvalDataConfig(DatasetSource):
    """The problems to evaluate on."""

    max_input_seq_length: Derived[Count] = derived("${generation.max_model_len}")
    """Maximum tokens of a prompt."""
    overlong_prompts: Literal["error", "drop"] = "error"
    """Longer prompts: stop with an error, or drop and count them."""
    repeat: int = Field(1, ge=1)
    """How many times each problem is asked."""
    add_bos: bool = True
    """Begin with the tokenizer's BOS token, if it has one and the chat template does not write it."""
