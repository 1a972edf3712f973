"""`hone convert`."""

from __future__ import annotations

from pathlib import Path

from hone.cli.arguments import parser_of
from hone.lazy import lazy


def convert(argv: list[str]) -> int:
    """Write a checkpoint as a Hugging Face folder."""
    parser = parser_of("convert")
    parser.usage = (
        "hone convert [--adapter] RUN_OR_STEP_FOLDER OUT\n"
        "       hone convert [--adapter] --config FILE --dcp-ckpt-path FOLDER --hf-ckpt-path OUT"
    )
    parser.add_argument(
        "folders", nargs="*", help="a run's folder (for its newest step) or a step's, then OUT"
    )
    parser.add_argument("--config", metavar="FILE", help="the step's config.yaml")
    parser.add_argument("--dcp-ckpt-path", metavar="FOLDER", help="the step's policy/weights")
    parser.add_argument("--hf-ckpt-path", metavar="OUT", help="folder to write")
    parser.add_argument("--adapter", action="store_true", help="write the adapter alone, as PEFT loads it")
    parser.add_argument("--dtype", default="float32", help="of the written weights (default: float32)")
    trust = "run Python code that the model's config names"
    parser.add_argument("--trust-remote-code", action="store_true", help=trust)
    options = parser.parse_intermixed_args(argv)
    named = (options.config, options.dcp_ckpt_path, options.hf_ckpt_path)
    if not (all(named) and not options.folders) and not (len(options.folders) == 2 and not any(named)):
        parser.error("give either a folder and OUT, or all of --config, --dcp-ckpt-path and --hf-ckpt-path")
    export = lazy("hone.export")
    if all(named):
        config, weights, out = map(Path, named)
    else:
        out = Path(options.folders[1])
        config, weights = export.locate(Path(options.folders[0]))
    chosen = {name: getattr(options, name) for name in ("dtype", "adapter", "trust_remote_code")}
    print(f"wrote {export.convert(config, weights, out, **chosen)}")
    return 0
