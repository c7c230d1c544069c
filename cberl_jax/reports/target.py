"""The table of programs that were compiled for devices that are not there."""

from collections.abc import Mapping, Sequence
from typing import Any

from cberl_jax.reports.tables import format_table


def format_targets(results: Sequence[Mapping[str, Any]], targets: Mapping[str, Any]) -> str:
    """The programs as Markdown: a line per device and stage, and what the estimates assume.

    Args:
      results: from ``compile_for``.
      targets: name -> ``Target``.
    """
    head = ["device", "stage", "compiled in s", "MB a member", "MB in all", "kernels a step"]
    head += ["loops in a step: rounds x kernels", "estimate, s an epoch", "of it launches, s"]
    head += ["GFLOP", "GB moved", "collectives", "64-bit floats", "host calls"]
    rows = []
    for result in results:
        for line in result["stages"]:
            whole = line["memory"]["all"]
            loops = ", ".join(f"{loop['trips']} x {loop['kernels']}" for loop in line["loops"])
            rows.append(
                [
                    *(result["title"], line["stage"], f"{line['compile_s']:.0f}"),
                    *(f"{whole / result['members'] / 1e6:.1f}", f"{whole / 1e6:.0f}"),
                    *(str(line["step_kernels"] or "-"), loops or "-"),
                    *(f"{line['estimate_s']:.3f}", f"{line['launch_s']:.3f}"),
                    *(f"{line['flops'] / 1e9:.0f}", f"{line['bytes'] / 1e9:.0f}"),
                    str(sum(line["collectives"].values())),
                    *(str(line["doubles"]), str(len(line["host_calls"]))),
                ]
            )
    members = results[0]["members"]
    parts = [
        f"# Compiled for devices that are not there, {members} members",
        "Nothing was run. Compilation times are of this machine.",
        format_table(head, rows, "programs of an epoch."),
        "The estimate adds up, over all kernels of an epoch, the largest of three times: a launch, "
        "its matrix products at the device's rate, its bytes at the memory's. Loops count as often "
        "as they run. What is not counted: caches, kernels that run side by side, waiting for the "
        "host.",
    ]
    parts += [
        f"{result['title']}, {line['stage']}: how often these loops run is not known; they count "
        f"once, so that all figures are too low: {', '.join(line['unknown_loops'])}."
        for result in results
        for line in result["stages"]
        if line["unknown_loops"]
    ]
    listed = [
        f"- {own.title}: {own.launch * 1e6:g} us a launch, {own.flops / 1e12:g} TFLOP/s, "
        f"{own.bandwidth / 1e12:g} TB/s"
        for own in (targets[result["target"]] for result in results)
    ]
    kinds = [
        f"- {result['title']}, {line['stage']}: "
        + ", ".join(f"{number} of {kind}" for kind, number in line["products"].items())
        for result in results
        for line in result["stages"]
    ]
    parts += ["\n".join(listed), "Matrix products by the types of inputs and result:"]
    return "\n\n".join([*parts, "\n".join(kinds)]) + "\n"
