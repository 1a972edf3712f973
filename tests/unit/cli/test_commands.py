"""The command line: what it says when it is used wrongly, and what it hands on when it is used rightly."""

from __future__ import annotations

import errno
import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from hone import __version__, cli
from hone.errors import HoneError, Interrupted, TrainingError

ROOT = Path(__file__).parents[3]


class Module(ModuleType):
    """A stand-in that records its calls."""

    def __init__(self, name: str, result: Any = None, raises: BaseException | None = None) -> None:
        super().__init__(name)
        self.calls: list[tuple[Any, ...]] = []
        self.result, self.raises = result, raises

    def record(self, *arguments: Any, **options: Any) -> Any:
        self.calls.append(arguments)
        if self.raises is not None:
            raise self.raises
        return self.result

    def load(self, kind: Any, *arguments: Any, **options: Any) -> Any:
        found = self.record(kind, *arguments, **options)
        if isinstance(found, OneDevice):
            found.algorithm = kind
        return found

    main = announce = enable_offline_if_hub_unreachable = log_as_asked = record


class OneDevice(str):
    """Stands for what `load` returns: a configuration for one device."""

    config = SimpleNamespace(cluster=SimpleNamespace(is_distributed=False))
    algorithm = "sft"


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> Module:
    """hone.config with a `load` that returns "loaded"; nothing is said of it at the start."""
    importlib.import_module("hone.config.infer_algorithm")  # it reads files with the real one
    monkeypatch.setitem(sys.modules, "hone.training.startup", Module("hone.training.startup"))
    module = Module("hone.config", result=OneDevice("loaded"))
    monkeypatch.setitem(sys.modules, "hone.config", module)
    return module


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **behaviour: Any) -> Module:
    module = Module(name, **behaviour)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def failure(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["grppo"], "did you mean `hone grpo`?"),
        (
            ["train"],
            "the commands are sft, dpo, rm, grpo, ppo, distill, online-dpo, eval, eval-rm, convert, ",
        ),
        (["sft", "recipe.yaml"], "--config recipe.yaml"),
        (["sft", "sft.max_num_steps", "3"], "'sft.max_num_steps' is not an override: write key=value"),
        (["sft", "--confg", "x.yaml"], "unknown option --confg: did you mean --config?"),
        (["sft", "--config"], "expected one argument"),
        (["config", "sgt"], "invalid choice: 'sgt'"),
        (["convert"], "give either a folder and OUT"),
        (["convert", "--config", "c.yaml", "out"], "give either a folder and OUT"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == 2
    assert message in failure(capsys)


@pytest.mark.parametrize(
    ("kind", "module"),
    [("sft", "hone.training.supervised"), ("grpo", "hone.training.online"), ("eval", "hone.evaluation")],
)
def test_each_command_loads_its_kind_and_runs(
    monkeypatch: pytest.MonkeyPatch, config: Module, kind: str, module: str
) -> None:
    run = stand_in(monkeypatch, module)
    assert cli.main([kind, "a.b=1", "--config", "c.yaml", "+c=2", "~d"]) == 0
    assert config.calls == [(kind, "c.yaml", ["a.b=1", "+c=2", "~d"])]
    assert run.calls == [("loaded",)]


def test_no_arguments_at_all_mean_the_embedded_default(
    monkeypatch: pytest.MonkeyPatch, config: Module
) -> None:
    stand_in(monkeypatch, "hone.training.online")
    assert cli.main(["grpo"]) == 0
    assert config.calls == [("grpo", None, [])]


def test_the_end_of_a_run_says_where_its_files_are(
    monkeypatch: pytest.MonkeyPatch, config: Module, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = {
        "step": 7,
        "total_steps": 9,
        "stopped": "val:accuracy reached 0.9",
        "seconds": 4,
        "folder": "out",
    }
    stand_in(monkeypatch, "hone.training.online", result=summary)
    assert cli.main(["grpo"]) == 0
    out = capsys.readouterr().out
    assert "stopped at step 7/9 (val:accuracy reached 0.9) after 4.0 s" in out
    assert out.endswith("in out\n")


def test_dry_run_is_plan(monkeypatch: pytest.MonkeyPatch, config: Module) -> None:
    plan = stand_in(monkeypatch, "hone.cli.plan", result=0)
    assert cli.main(["sft", "--dry-run", "a=1"]) == 0
    assert cli.main(["plan", "sft", "a=1", "--gpu", "H100-80G"]) == 0
    assert plan.calls == [("sft", "loaded"), ("sft", "loaded", "H100-80G")]


def test_plan_returns_what_it_found(monkeypatch: pytest.MonkeyPatch, config: Module) -> None:
    stand_in(monkeypatch, "hone.cli.plan", result=3)
    assert cli.main(["plan", "eval"]) == 3


@pytest.mark.parametrize(
    ("text", "overrides", "kind"),
    [
        ("sft: {}\npolicy: {}\n", [], "sft"),
        ("policy: {}\n", [], "sft"),
        ("grpo: {}\n", [], "grpo"),
        ("loss_fn: {}\n", [], "grpo"),
        ("eval: {}\n", [], "eval"),
        ("generation: {}\n", [], "eval"),
        ("policy: {}\n", ["++grpo.seed=1"], "grpo"),
        ("defaults: parent.yaml\n", [], "grpo"),
        ("defaults: [parent.yaml]\n", [], "grpo"),
        ("broken: [", [], "sft"),
    ],
)
def test_plan_infers_the_kind(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: Module,
    text: str,
    overrides: list[str],
    kind: str,
) -> None:
    plan = stand_in(monkeypatch, "hone.cli.plan", result=0)
    (tmp_path / "parent.yaml").write_text("loss_fn: {}\n")
    (tmp_path / "c.yaml").write_text(text)
    assert cli.main(["plan", "--config", str(tmp_path / "c.yaml"), *overrides]) == 0
    assert plan.calls == [(kind, "loaded", None)]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (TrainingError("loss is nan"), 1, "loss is nan"),
        (HoneError("no"), 1, "no"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, "No space left on device", "/runs/x"), 1, "disk full while writing /runs/x"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 1, "disk full: free some space"),
    ],
)
def test_expected_failures_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
    config: Module,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    message: str,
) -> None:
    stand_in(monkeypatch, "hone.training.supervised", raises=error)
    assert cli.main(["sft"]) == code
    assert message in failure(capsys)


def test_what_was_asked_for_is_no_error(
    monkeypatch: pytest.MonkeyPatch, config: Module, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(monkeypatch, "hone.training.supervised", raises=Interrupted("saved; go on"))
    assert cli.main(["sft"]) == 130
    assert capsys.readouterr().err == "saved; go on\n"


@pytest.mark.parametrize("error", [ValueError("a defect"), OSError(errno.EACCES, "denied")])
def test_defects_keep_their_traceback(
    monkeypatch: pytest.MonkeyPatch, config: Module, error: BaseException
) -> None:
    stand_in(monkeypatch, "hone.training.supervised", raises=error)
    with pytest.raises(type(error)):
        cli.main(["sft"])


def test_config_explains_a_key_and_a_section(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "sft", "policy.precision"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("policy.precision\n    default: ")
    assert out.count("default:") == 1
    assert cli.main(["config", "grpo", "policy.optimizer"]) == 0
    assert "policy.optimizer.name\n" in capsys.readouterr().out


def test_config_lists_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "eval"]) == 0
    out = capsys.readouterr().out
    assert "\n\neval.k_value\n    default: 1\n    k; at most num_tests_per_prompt.\n" in out
    assert "list[float | None]" in out


def test_config_names_the_nearest_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "sft", "policy.precison"]) == 2
    assert "did you mean policy.precision?" in failure(capsys)


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["sft", "policy.train_globl_batch_size=8"], "policy.train_global_batch_size"),
        (["grpo", "grpo.num_prompts_per_stp=8"], "grpo.num_prompts_per_step"),
        (["eval", "eval.k_valu=1"], "eval.k_value"),
        (["sft", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["sft", "sft.max_num_steps=many"], "sft.max_num_steps"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(
    argv: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == 2
    assert named in failure(capsys)


def test_convert_takes_the_seeds_arguments_and_the_short_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    export = ModuleType("hone.export")
    export.locate = lambda folder: (folder / "config.yaml", folder / "policy/weights")  # type: ignore[attr-defined]
    export.convert = lambda *given, **named: calls.append((*given, *named.values()))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "hone.export", export)
    long = ["--config", "s/config.yaml", "--dcp-ckpt-path", "s/policy/weights/", "--hf-ckpt-path", "hf"]
    assert cli.main(["convert", *long]) == 0
    assert cli.main(["convert", "s", "hf", "--dtype", "bfloat16", "--adapter"]) == 0
    paths = (Path("s/config.yaml"), Path("s/policy/weights"), Path("hf"))
    assert cli.main(["convert", "s", "hf", "--trust-remote-code"]) == 0
    assert calls == [
        (*paths, "float32", False, False),
        (*paths, "bfloat16", True, False),
        (*paths, "float32", False, True),
    ]


def python(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, cwd=cwd)


HEAVY = {"torch", "transformers", "datasets", "matplotlib", "tensorboard", "wandb", "mlflow", "numpy", "ray"}


@pytest.mark.parametrize(
    "code",
    [
        "from hone.cli import main; main(['--help'])",
        "from hone.cli import main; main(['sfft'])",
        "import hone.config",
        "import hone.tracking",
        "import hone.report",
        "import hone; hone.HoneError",
    ],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    check = f"import sys; {code}; print(*{{m.split('.')[0] for m in sys.modules}}, file=sys.stderr)"
    result = python("-c", check)
    assert result.returncode == 0, result.stderr
    assert not HEAVY & set(result.stderr.split())


def test_version_and_module_form() -> None:
    assert python("-m", "hone", "--version").stdout == f"hone {__version__}\n"
    assert "hone COMMAND" in python("-m", "hone").stdout


@pytest.mark.parametrize(
    ("script", "name"),
    [
        ("run_sft.py", "sft"),
        ("run_grpo.py", "grpo"),
        ("run_distillation.py", "distill"),
        ("run_eval.py", "eval"),
        ("converters/convert_dcp_to_hf.py", "convert"),
    ],
)
def test_the_examples_are_the_commands_from_anywhere(script: str, name: str, tmp_path: Path) -> None:
    result = python(str(ROOT / "examples" / script), "--help", cwd=tmp_path)
    assert result.stdout.startswith(f"usage: hone {name}")


def test_a_closed_pipe_is_no_error() -> None:
    code = "import sys; from hone.cli import main; sys.exit(main(['sft', '--help']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.wait(20)
