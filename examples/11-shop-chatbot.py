"""A small shop's chatbot: few questions and long pauses, so the advisor says serverless."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import boto3
from shared import advised, deploy, packed, server

HANDLER = """
import math
from collections import Counter

ANSWERS = {
    "when are you open": "Tuesday to Saturday, 9 to 18.",
    "do you deliver flowers": "Yes, within 10 km, for 4 euros.",
    "how long do roses last": "About a week; cut the stems and change the water.",
    "can i order a bouquet for a wedding": "Gladly: please come by, or call two weeks ahead.",
}


def words(text):
    return Counter(text.lower().strip("?!. ").split())


def model_fn(model_dir):
    return [(words(question), answer) for question, answer in ANSWERS.items()]


def transform_fn(known, body, content_type, accept):
    asked = words(body if isinstance(body, str) else body.decode())

    def likeness(entry):
        common = sum((asked & entry[0]).values())
        return common / math.sqrt(sum(asked.values()) * sum(entry[0].values()))

    best = max(known, key=likeness)
    return (best[1] if likeness(best) > 0.2 else "I will ask the florist."), "text/plain"
"""
QUESTIONS = ("When do you open?", "Do you deliver roses?", "Can I order a wedding bouquet?", "Who won the match?")


def main() -> None:
    configuration = advised("shop-chatbot", "serverless")["configuration"]
    with tempfile.TemporaryDirectory() as folder, server():
        endpoint = deploy(packed(HANDLER, Path(folder)), configuration, FOURFOLD_IDLE_SECONDS="1")
        runtime = boto3.client("sagemaker-runtime")
        for question in QUESTIONS:
            time.sleep(1.5 if question == QUESTIONS[-1] else 0)  # long enough for the worker to go
            began = time.perf_counter()
            answer = runtime.invoke_endpoint(
                EndpointName=endpoint, ContentType="text/plain", Accept="text/plain", Body=question
            )
            took = 1000 * (time.perf_counter() - began)
            cold = "x-fourfold-cold-start" in answer["ResponseMetadata"]["HTTPHeaders"]
            print(f"{question} {answer['Body'].read().decode()} ({took:.0f} ms, {'cold' if cold else 'warm'})")


if __name__ == "__main__":
    main()
