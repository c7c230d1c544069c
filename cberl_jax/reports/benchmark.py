"""The measurements of ``studies/benchmark.py`` as tables."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cberl_jax.reports.tables import format_table

Line = Mapping[str, Any]
# Title of a column -> its cell, a number or a text, from a line of measurements.
Columns = Mapping[str, Callable[[Line], Any]]

_REFERENCE: Columns = {
    "contestant": lambda r: r["name"],
    "devices": lambda r: str(r["devices"]),
    "s an epoch": lambda r: r["epoch_s"],
    "fastest": lambda r: r["fastest_s"],
    "slowest": lambda r: r["slowest_s"],
    "s a member": lambda r: r["per_member_s"],
    "times faster": lambda r: r["times_faster"],
}
_MEMBERS: Columns = {
    "members": lambda r: str(r["members"]),
    "devices": lambda r: str(r["devices"]),
    "s an epoch": lambda r: r["epoch_s"],
    "s a member": lambda r: r["member_epoch_s"],
    "s a GAN epoch": lambda r: r["gan_epoch_s"],
    "utterances/s": lambda r: r["utterances_per_s"],
    "compilation s": lambda r: r["compile_s"],
    "peak memory GB": lambda r: r["peak_memory_bytes"] / 1e9,
}
_ATTENTION: Columns = {
    "attention": lambda r: r["name"],
    "members": lambda r: str(r["members"]),
    "s an epoch": lambda r: r["epoch_s"],
    "s a member": lambda r: r["member_epoch_s"],
    "compilation s": lambda r: r["compile_s"],
    "program MB": lambda r: r["program_bytes"] / 1e6,
}
_STREAMING: Columns = {
    "rows from the": lambda r: r["name"],
    "members": lambda r: str(r["members"]),
    "features on a device MB": lambda r: r["feature_bytes"] / 1e6,
    "s an epoch": lambda r: r["epoch_s"],
    "compilation s": lambda r: r["compile_s"],
}
_LIMIT: Columns = {
    "members": lambda r: str(r["members"]),
    "s an epoch": lambda r: r["epoch_s"],
    "GFLOP an epoch": lambda r: r["flops"] / 1e9,
    "machine GFLOP/s": lambda r: r["flops_per_s"] / 1e9,
    "share of FLOP limit": lambda r: r["share_of_flops_limit"],
    "GB moved": lambda r: r["xla_bytes"] / 1e9,
    "machine GB/s": lambda r: r["bytes_per_s"] / 1e9,
    "share of memory limit": lambda r: r["share_of_bytes_limit"],
}
_START: Columns = {
    "until": lambda r: r["until"],
    "cold": lambda r: r["cold_s"],
    "warm": lambda r: r["warm_s"],
}
_GROWTH: Columns = {
    "size": lambda r: f"{r['size']} x",
    "row length": lambda r: str(r["row_length"]),
    "utterances": lambda r: str(r["utterances"]),
    "s an epoch": lambda r: r["epoch_s"],
    "us an utterance": lambda r: r["microseconds_per_utterance"],
    "ms a row": lambda r: r["milliseconds_per_row"],
    "program MB": lambda r: r["program_bytes"] / 1e6,
    "peak memory GB": lambda r: r["peak_memory_bytes"] / 1e9,
}
_STAGES = {"gan": "first epoch (of the GAN stage)", "joint": "first joint epoch"}


def _section(title: str, text: str, columns: Columns, lines: Sequence[Line]) -> list[str]:
    """A section with one table; nothing where there is no line."""
    if not lines:
        return []
    cells = [[cell(line) for cell in columns.values()] for line in lines]
    rows = [[x if isinstance(x, str) else f"{x:.3g}" for x in row] for row in cells]
    return [f"## {title}", *([text] if text else []), format_table(list(columns), rows)]


def _named(tables: Sequence[Mapping[str, Line]]) -> list[Line]:
    """The lines of all tables, each with its name."""
    return [{"name": name, **line} for table in tables for name, line in table.items()]


def _start_lines(start: Line) -> list[Line]:
    return [
        {"until": title, "cold_s": start[f"cold_{stage}_s"], "warm_s": start[f"warm_{stage}_s"]}
        for stage, title in _STAGES.items()
        if f"cold_{stage}_s" in start
    ]


def format_benchmark(result: Mapping[str, Any]) -> str:
    """The measurements as Markdown."""
    machine = result["machine"]
    parts = [
        f"# Benchmark: {machine['devices']} x {machine['device']}, {machine['cores']} cores",
        f"Medians of {result['repeats']} after a warm-up.",
    ]
    for table in result.get("reference", []):
        first = next(iter(table.values()))
        how = (
            f"The same model without GAN stage and copies, {first['steps']} steps an epoch "
            f"({first['dialogues_a_step']} dialogues a step in PyTorch), in turns in one process."
        )
        parts += _section("Against PyTorch", how, _REFERENCE, _named([table]))
    parts += _section("Members", "", _MEMBERS, result.get("members", []))
    how = "The two values of model.attention in turns in one process; nothing is generated."
    parts += _section("Forms of attention", how, _ATTENTION, _named(result.get("attention", [])))
    how = "The same epochs, with rows from both in turns in one process; nothing is generated."
    parts += _section("Rows from the host", how, _STREAMING, _named(result.get("streaming", [])))
    how = (
        "Time that the epoch's matrix products, and that its bytes, would need at the rates "
        "measured on this machine, as a share of the time it takes."
    )
    parts += _section("Distance to the limit", how, _LIMIT, result.get("limit", []))
    how = "Seconds from the start of the process, without and with programs in the cache."
    for start in result.get("start", []):
        parts += _section("Start", how, _START, _start_lines(start))
    how = "Simulated corpora, one member, no GAN stage."
    parts += _section("Growth", how, _GROWTH, result.get("growth", []))
    return "\n\n".join(parts) + "\n"
