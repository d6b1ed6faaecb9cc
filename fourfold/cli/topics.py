"""Commands about topics: which there are, and what could not be delivered."""

from __future__ import annotations

from datetime import UTC, datetime
from json import loads
from typing import Annotated

import typer

from fourfold.cli import app
from fourfold.cli.client import DATA_DIR, URL, DataDir, Json, Server, Url
from fourfold.cli.output import print_json, print_table

topics = typer.Typer(help="See topics and what could not be delivered.", no_args_is_help=True)
app.add_typer(topics, name="topics")

Name = Annotated[str, typer.Argument(metavar="TOPIC", help="The topic's name.")]


@topics.command("list")
def list_topics(json: Json = False, url: Url = URL, data_dir: DataDir = DATA_DIR) -> None:
    """List topics with their subscriptions and deliveries."""
    found = loads(Server(url, data_dir).get("topics"))
    if json:
        print_json(found)
        return
    columns = ("name", "confirmed", "unconfirmed", "pending", "dead")
    print_table([column.upper() for column in columns], [[topic[column] for column in columns] for topic in found])


@topics.command("dead-letters")
def dead_letters(name: Name, json: Json = False, url: Url = URL, data_dir: DataDir = DATA_DIR) -> None:
    """List messages that were given up, newest first. They are kept for 14 days."""
    found = loads(Server(url, data_dir).get("topics", name, "dead-letters"))
    if json:
        print_json(found)
        return
    print_table(
        ("PUBLISHED", "ENDPOINT", "ATTEMPTS", "REASON", "MESSAGE"),
        [
            (
                datetime.fromtimestamp(letter["published_at"], UTC),
                letter["endpoint"],
                letter["attempts"],
                letter["reason"],
                letter["message"][:80],
            )
            for letter in found
        ],
    )


@topics.command("redrive")
def redrive(name: Name, json: Json = False, url: Url = URL, data_dir: DataDir = DATA_DIR) -> None:
    """Try to deliver the dead letters once more."""
    answer = loads(Server(url, data_dir).post("topics", name, "redrive"))
    if json:
        print_json(answer)
    else:
        print(f"{answer['redriven']} messages are on their way again")
