"""The table of the page that comes from the measurements."""

from pathlib import Path

from studies import into_page

PAGE = Path(__file__).with_name("README.md")


def number(value: float) -> str:
    """Three digits that count, and no exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def beside(row: dict) -> str:
    """Each peer with its own measure and how many times as good we are."""
    cells = []
    for peer, value in row["peers"].items():
        goal = row["goals"].get(peer)
        missed = f", wanted {goal:g}" if goal and row["ratio"][peer] < goal else ""
        cells.append(f"{peer} {number(value)} (*{row['ratio'][peer]:.2f}*{missed})")
    return "; ".join(cells)


def table(rows: dict[str, dict]) -> str:
    """Markdown: the work, our measure, and each peer's with the ratio, above 1 where we are better."""
    lines = ["| work | unit | ours | others, and (*our ratio to each*) |", "|---|---|---|---|"]
    for row in rows.values():
        most = row.get("at most")
        missed = f" (wanted {most:g} at most)" if most and row["ours"] > most else ""
        lines.append(f"| {row['what']} | {row['unit']} | {number(row['ours'])}{missed} | {beside(row)} |")
    return "\n".join(lines)


def write(found: dict) -> None:
    """Put the table into benchmarks/README.md, with the machine and the versions below it."""
    at = found["machine"]
    names = ", ".join(f"{name} {version}" for name, version in at["versions"].items())
    into_page(f"{table(found['rows'])}\n\nOn {at['cores']} cores of an {at['cpu']}: {names}.", "bench", PAGE)
