"""The tables of the README that come from the studies, in Markdown."""

from studies import board
from studies.against import OURS, RIVAL
from studies.ladder import cell, into_readme


def verdict(interval: dict) -> str:
    """Who wins, by the interval of a paired difference: "ahead", "behind", or "level" where it holds zero."""
    return "ahead" if interval["low"] > 0 else "behind" if interval["high"] < 0 else "level"


def contestants(section: dict) -> str:
    """Every contestant of notebook 06: Dice of the patients as they are, and what it took."""
    lines = [
        "| contestant | Dice at 64 | minus U-Net | seeds | parameters | CPU s a pass |",
        "|---|---|---|---|---|---|",
    ]
    for name, fact in section["arms"].items():
        gap = section["minus U-Net"]["none"].get(name)
        cells = [cell(section["dice"]["none"][name], ".2f"), cell(gap, "+.3f") if gap else "",
                 str(len(fact["seeds"])), f"{fact['parameters']:,}", f"{fact['cpu seconds a pass']:.1f}"]  # fmt: skip
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def under_shifts(section: dict) -> str:
    """The U-Net and the spatial VAE under each shift, and who is ahead."""
    lines = [f"| test patients | {RIVAL} | {OURS} | difference | {OURS} is |", "|" + 5 * "---|"]
    for shift, by in section["dice"].items():
        gap = section["minus U-Net"][shift][OURS]
        cells = [cell(by[RIVAL], ".2f"), cell(by[OURS], ".2f"), cell(gap, "+.3f"), verdict(gap)]
        lines.append(f"| {'as they are' if shift == 'none' else shift} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


TABLES = {"contestants": contestants, "shifts": under_shifts}


def write() -> None:
    """Put the tables into the README, once the section "against" has been made."""
    if section := board.get("against"):
        for mark, table in TABLES.items():
            into_readme(table(section), mark)
