"""The report of the peers as text."""

from typing import Any

from benchmarks import environment


def table(report: dict[str, Any]) -> str:
    lines = [environment.line(report["environment"]), report["command"], ""]
    lines += _speeds(report["results"])
    lines += ["", *_kills(report["results"])]
    lines += ["", f"{report['seconds']:.0f} s in all"]
    if report["cpu_seconds_stolen"] is not None:
        lines.append(f"{report['cpu_seconds_stolen']:.0f} CPU s stolen by the machine's host")
    lines += ["", *_ratios(report["ratios"], report["goals"])]
    return "\n".join(lines)


def _speeds(results: dict[str, Any]) -> list[str]:
    heads = ("steps/s", "min", "max", "CPU s/1000", "cold s", "peak MB", "items")
    lines = [f"{'':<36}" + "".join(f"{head:>11}" for head in heads)]
    for result in results.values():
        if "not_measured" in result:
            lines.append(f"{result['title']:<36} not measured: {result['not_measured']}")
            continue
        figures = "".join(f"{result[key]:>11,.0f}" for key in ("median", "min", "max"))
        figures += f"{result['cpu_seconds_per_1000_steps']:>11.3f}"
        figures += f"{result['cold_start_seconds']:>11.2f}{result['memory_mb']:>11.0f}"
        lines.append(f"{result['title']:<36}{figures}{result['items']:>11,}")
    return lines


def _kills(results: dict[str, Any]) -> list[str]:
    """What was left after `kill -9` and a second start."""
    heads = ("completed", "finished", "run again", "cut short", "run again", "seconds")
    line = f"{'kill -9, then started again':<36}" + "".join(f"{head:>11}" for head in heads)
    lines = [line + "   with"]
    for result in results.values():
        kept = result.get("after_kill", "not tried: not measured")
        if isinstance(kept, str):
            lines.append(f"{result['title']:<36} {kept}")
            continue
        keys = ("finished_steps", "repeated", "interrupted_steps", "restarted")
        figures = f"{kept['completed']:>4} of {kept['items']:<3}"
        figures += "".join(f"{kept[key]:>11}" for key in keys)
        seconds = "-" if kept["seconds"] is None else f"{kept['seconds']:.1f}"
        line = f"{result['title']:<36}{figures}{seconds:>11}   {kept['started_again_with']}"
        lines.append(line)
    return lines


def _ratios(ratios: dict[str, float], goals: dict[str, float]) -> list[str]:
    lines = []
    for name, ratio in ratios.items():
        goal = goals.get(name)
        verdict = "" if goal is None else f"   goal {goal:,.0f}: " + _verdict(ratio, goal)
        lines.append(f"{name:<36}{ratio:>11,.2f}{verdict}")
    return lines


def _verdict(ratio: float, goal: float) -> str:
    return "met" if ratio >= goal else "MISSED"
