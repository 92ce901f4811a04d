"""Draws the course of one challenge: equity, peak, the days, the three limits, and the trade that decided."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from challenge_client.cli.outcomes import UsageError
from challenge_client.enums import ChallengeStatus
from challenge_client.values import Challenge, RecordedTrade

FORMATS = (".png", ".svg", ".pdf")
INK, GRID, MUTED = "#1f2933", "#e4e7eb", "#7b8794"
EQUITY, PEAK, TARGET, DAILY, TOTAL = "#2563eb", "#bfdbfe", "#16a34a", "#ea580c", "#dc2626"
VERDICT = {ChallengeStatus.FUNDED: TARGET, ChallengeStatus.FAILED: TOTAL}


@dataclass(frozen=True, slots=True)
class Course:
    """The lines to draw, one point for the creation (0) and one for each trade, in units of the currency."""

    equity: list[float]
    peak: list[float]
    daily_floor: list[float]
    """Below it the trade would break the daily drawdown."""
    total_floor: list[float]
    """Below it the trade would break the total drawdown."""
    target: float
    day_starts: list[tuple[int, str]]
    """The first trade of each day, by sequence."""


def course_of(challenge: Challenge, trades: Sequence[RecordedTrade]) -> Course:
    """The course of a challenge from its recorded decisions."""
    limits, hundred = challenge.limits, Decimal(100)
    balance = challenge.initial_balance
    kept_daily, kept_total = (
        1 - pct / hundred for pct in (limits.max_daily_drawdown_pct, limits.max_total_drawdown_pct)
    )
    decisions = [recorded.decision for recorded in trades]
    days = [recorded.trade.executed_at.date() for recorded in trades]
    return Course(
        equity=[float(balance), *(float(d.equity) for d in decisions)],
        peak=[float(balance), *(float(d.peak_equity) for d in decisions)],
        daily_floor=[float(balance * kept_daily), *(float(d.daily_start_equity * kept_daily) for d in decisions)],
        total_floor=[float(balance * kept_total), *(float(d.peak_equity * kept_total) for d in decisions)],
        target=float(balance * (1 + limits.profit_target_pct / hundred)),
        day_starts=[
            (number, f"{day:%-d %b}" if number > 1 else f"{day:%-d %b %Y}")
            for number, day in enumerate(days, 1)
            if number == 1 or day != days[number - 2]
        ],
    )


def draw(challenge: Challenge, trades: Sequence[RecordedTrade], path: Path) -> None:
    """Draw it into a file whose ending says the format."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"--output must end in {', '.join(FORMATS)}; got {path.name!r}")
    course = course_of(challenge, trades)
    figure = Figure(figsize=(11, 6), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    _draw_days(axes, course)
    numbers = range(len(course.equity))
    axes.axhline(course.target, color=TARGET, linewidth=1.4, linestyle=(0, (6, 3)))
    axes.step(numbers, course.total_floor, where="post", color=TOTAL, linewidth=1.4, linestyle=(0, (6, 3)))
    axes.step(numbers, course.daily_floor, where="post", color=DAILY, linewidth=1.2)
    axes.step(numbers, course.peak, where="post", color=PEAK, linewidth=5)
    axes.step(numbers, course.equity, where="post", color=EQUITY, linewidth=2)
    axes.fill_between(
        numbers, course.total_floor, min(course.total_floor) * 0.9, step="post", color=TOTAL, alpha=0.06, linewidth=0
    )
    _mark_the_end(axes, challenge, course)
    _dress(axes, challenge, course)
    try:
        figure.savefig(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None


def _draw_days(axes: Axes, course: Course) -> None:
    """Every second day shaded, and as many named as there is room for."""
    last = len(course.equity) - 1
    starts = [number for number, _ in course.day_starts]
    for index, start in enumerate(starts):
        end = starts[index + 1] if index + 1 < len(starts) else last
        if index % 2:
            axes.axvspan(start - 0.5, end - (0.5 if end != last else 0), color=GRID, alpha=0.45, linewidth=0)
    room, labelled, named_at = max(1, last // 14), [], -(10**9)
    for number, name in course.day_starts:
        if number - named_at >= room:
            labelled.append((number, name))
            named_at = number
    axes.set_xticks([number for number, _ in labelled], [name for _, name in labelled])


def _mark_the_end(axes: Axes, challenge: Challenge, course: Course) -> None:
    last = len(course.equity) - 1
    colour = VERDICT.get(challenge.status)
    if colour is None or not last:
        return
    axes.plot(last, course.equity[-1], "o", markersize=9, color=colour, markeredgecolor="white", zorder=5)
    reason = str(challenge.status_reason or "").lower().replace("_", " ")
    above = course.equity[-1] > (course.target + min(course.total_floor)) / 2
    axes.annotate(
        f"{challenge.status} on trade {challenge.last_sequence}\n{reason}, equity {challenge.equity:,.2f}",
        (last, course.equity[-1]), xytext=(-14, -110 if above else 26), textcoords="offset points", ha="right",
        color="white", fontsize=10, fontweight="bold",
        bbox={"boxstyle": "round,pad=0.5", "facecolor": colour, "edgecolor": "none"},
        arrowprops={"arrowstyle": "-", "color": colour}, zorder=6,
    )  # fmt: skip


def _dress(axes: Axes, challenge: Challenge, course: Course) -> None:
    limits = challenge.limits
    lines: tuple[tuple[str, str, Any, float], ...] = (
        ("equity", EQUITY, "-", 2.0),
        ("peak equity", PEAK, "-", 5),
        (f"profit target {limits.profit_target_pct.normalize():f} %", TARGET, (0, (6, 3)), 1.4),
        (f"daily drawdown limit {limits.max_daily_drawdown_pct.normalize():f} %", DAILY, "-", 1.2),
        (f"total drawdown limit {limits.max_total_drawdown_pct.normalize():f} %", TOTAL, (0, (6, 3)), 1.4),
    )
    handles = [Line2D([], [], color=c, linestyle=s, linewidth=w, label=name) for name, c, s, w in lines]
    axes.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=5, frameon=False, fontsize=9,
        labelcolor=INK, handlelength=1.8, columnspacing=1.6,
    )  # fmt: skip
    account = challenge.labels.get("account", "")
    axes.set_title(f"Challenge {challenge.challenge_id}", loc="left", color=INK, fontsize=13, fontweight="bold", pad=22)
    subtitle = f"{account}   " if account else ""
    subtitle += f"{challenge.initial_balance:,f} {challenge.currency_code}, {challenge.last_sequence:,} trades"
    axes.text(0, 1.02, subtitle, transform=axes.transAxes, color=MUTED, fontsize=9.5)
    low = min(*course.total_floor, *course.equity)
    high = max(course.target, *course.equity)
    margin = (high - low) * 0.06 or 1.0
    axes.set_ylim(low - margin, high + margin)
    axes.set_xlim(0, max(1, (len(course.equity) - 1) * 1.02))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, length=0, labelsize=9)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
