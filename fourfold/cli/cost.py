"""`fourfold cost`: the price of a stated usage. Needs no server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fourfold.cli import app
from fourfold.cli.output import print_json, print_table


@app.command(rich_help_panel="Advisor")
def cost(
    file: Annotated[Path, typer.Option(help="Usage as YAML or JSON: a mapping with a `type`, or a list of them.")],
    prices: Annotated[
        Path | None,
        typer.Option(help="CSV, YAML or JSON with prices or machines of your own, laid over the shipped ones."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; figures are exact decimal text.")] = False,
) -> None:
    """Price a stated usage, line by line, without deciding anything."""
    from fourfold.advisor import cost as bill
    from fourfold.advisor import usage
    from fourfold.advisor.prices import shipped

    table = shipped().over(prices) if prices else shipped()
    answer = bill.price(usage.read(file), table)
    if as_json:
        print_json(answer.plain())
        return
    sources = list(dict.fromkeys(line.source for line in answer.lines))
    print_table(
        ("item", "quantity", "unit", "price USD", "cost USD", "source"),
        [
            (
                line.item,
                bill.plain(round(line.quantity, 6)),
                line.unit,
                bill.plain(line.price_usd),
                f"{line.cost_usd:,.6f}",
                f"({sources.index(line.source) + 1})",
            )
            for line in answer.lines
        ],
    )
    for number, source in enumerate(sources, 1):
        print(f"({number}) {source}")
    print(f"total: {answer.total:,.2f} USD a month")
