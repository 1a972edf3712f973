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
    """A file (JSONL, JSON, Parquet), a folder, a Hugging Face dataset, the embedded hone/word-problems, or a class or
    function of your own that gives rows: `my_data.py:MyDataset` or `pkg.module.MyDataset`."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Arguments of that class or function, such as `{data_path: rows.json}`."""
    subset: str | None = None
    """Configuration of a Hugging Face dataset, such as `main`."""
    split: str | None = None
    """Split to read; null: `train` for training, the first held-out one there is for validation."""
    seed: int | None = None
    """Seed of the split into training and validation rows; null: the run's."""
    limit: int | None = Field(None, ge=1)
    """Use the first so many rows only."""
    input_key: str | None = None
    """Column of the prompt; null: found from the row's format."""
    output_key: str | None = None
    """Column of the answer; null: found from the row's format."""
    prompt_template: str | None = None
    """Text with `{column}` places, such as "Human: {input}\\n\\nAssistant: {output}"."""
    prompt_file: LocalPath | None = None
    """File with a text around the prompt, in which `{}` stands for it."""
    system_prompt_file: LocalPath | None = None
    """File with a system message for every prompt."""
    env_name: str | None = None
    """Which environment answers these prompts: a name under `env`. `math`, as upstream writes it: none, and with no
    reward functions given answers are checked as mathematics."""


class DatasetEntry(DatasetSource):
    """One dataset of a mixture."""

    split_validation_size: float = Field(0.0, ge=0, lt=1)
    """Part of the rows set aside for validation (data.train, when data.validation is not given)."""
    weight: float = Field(1.0, gt=0)
    """Share of this dataset in the mixture, relative to the others'."""


def _entries(value: Any) -> Any:
    return [value] if isinstance(value, dict | DatasetEntry) else value


Entries = Annotated[list[DatasetEntry], BeforeValidator(_entries)]


class DataConfig(ConfigModel):
    """Training and validation data. `train` and `validation` each take one entry or a list of entries."""

    train: Annotated[Entries | None, BeforeValidator(_entries)] = None
    """What is trained on; the typed configuration always holds a list."""
    validation: Annotated[Entries | None, BeforeValidator(_entries)] = None
    """What is validated on; null: rows that `split_validation_size` sets aside, if any."""
    default: DatasetEntry = section(DatasetEntry)
    max_input_seq_length: Derived[Count] = derived("${policy.max_total_sequence_length}")
    """Longest prompt in tokens."""
    overlong_prompts: Literal["error", "drop"] = "error"
    """What to do with a prompt that is longer; dropped ones are counted."""
    shuffle: bool = True
    """Draw rows in an order given by the seed; false: in the file's order."""
    add_bos: bool = True
    """Begin with the tokenizer's beginning-of-sequence token, if it has one and the template puts none."""
    add_eos: bool = True
    """End a trained-on answer with the end-of-sequence token, if the template does not put it."""

    @model_validator(mode="after")
    def _apply_default(self) -> Self:
        for entry in [*(self.train or []), *(self.validation or [])]:
            for name in self.default.model_fields_set - entry.model_fields_set:
                setattr(entry, name, getattr(self.default, name))
        return self


class PreferenceEntry(DatasetEntry):
    """One dataset of comparisons. `input_key` is the prompt's column here."""

    chosen_key: str | None = None
    """Column of the better answer; null: found from the row's format."""
    rejected_key: str | None = None
    """Column of the worse answer; null: found from the row's format."""


def _preference_entries(value: Any) -> Any:
    return [value] if isinstance(value, dict | PreferenceEntry) else value


PreferenceEntries = Annotated[list[PreferenceEntry] | None, BeforeValidator(_preference_entries)]


class PreferenceDataConfig(DataConfig):
    """Comparisons to train and validate on. `train` and `validation` each take one entry or a list of entries."""

    train: PreferenceEntries = None  # type: ignore[assignment]
    """What is trained on; the typed configuration always holds a list."""
    validation: PreferenceEntries = None  # type: ignore[assignment]
    """What is validated on; null: rows that `split_validation_size` sets aside, if any."""
    default: PreferenceEntry = section(PreferenceEntry)


class PromptDataConfig(DataConfig):
    """Prompts to roll out."""

    add_generation_prompt: bool = True
    """Put the template's opening of an assistant turn after the prompt."""


class EvalDataConfig(DatasetSource):
    """The problems to evaluate on."""

    max_input_seq_length: Derived[Count] = derived("${generation.max_model_len}")
    """Longest prompt in tokens."""
    overlong_prompts: Literal["error", "drop"] = "error"
    """What to do with a prompt that is longer; dropped ones are counted."""
    repeat: int = Field(1, ge=1)
    """Ask every problem so many times."""
    add_bos: bool = True
    """Begin with the tokenizer's beginning-of-sequence token, if it has one and the template puts none."""
