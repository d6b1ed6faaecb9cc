"""Creates, updates and deletes an endpoint again and again: what grows? Writes the section `cycles` of the page.

    python bench/cycles.py [--cycles 1000]      # about 10 minutes; fewer than 1000 write nothing

After a tenth of the cycles, when every part has been used, the server's memory, sockets, processes and files are
counted; at the end again.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import models
import report
from servers import Fourfold, client, family, free_port

CYCLES = 1000


@dataclass(frozen=True)
class Footprint:
    """What a server holds."""

    rss_mb: float
    descriptors: int
    processes: int
    files: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cycles", type=int, default=CYCLES)
    cycles: int = parser.parse_args().cycles
    models.ensure()
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        running = Fourfold().start("fraud", free_port(), Path(scratch))
        try:
            sagemaker = client(running.keys, "sagemaker")
            began = time.perf_counter()
            for number in range(cycles):
                _cycle(sagemaker, f"cycle-{number}")
                if number + 1 == max(1, cycles // 10):
                    before = _footprint(running.process.pid, Path(scratch))
            seconds = (time.perf_counter() - began) / cycles
            after = _footprint(running.process.pid, Path(scratch))
        finally:
            running.stop()
    rows = [
        ("memory of the gateway, MB", f"{before.rss_mb:.1f}", f"{after.rss_mb:.1f}"),
        ("open files and sockets", f"{before.descriptors}", f"{after.descriptors}"),
        ("processes", f"{before.processes}", f"{after.processes}"),
        ("files in the data folder", f"{before.files}", f"{after.files}"),
    ]
    table = report.table(("of the server", f"after {max(1, cycles // 10)} cycles", f"after {cycles}"), rows)
    print(f"{table}\n\n{seconds:.2f} s a cycle")
    if cycles >= CYCLES:
        report.write_section(
            "cycles",
            f"A cycle creates a model, two configs and an endpoint, waits until it is in service, updates it to the "
            f"other config, waits again, and deletes all of it: {seconds:.2f} s.\n\n{table}",
        )


def _cycle(sagemaker: Any, name: str) -> None:
    sagemaker.create_model(ModelName=name, PrimaryContainer={"ModelDataUrl": "s3://bench/fraud/fraud.onnx"})
    configs = (f"{name}-a", f"{name}-b")
    for config in configs:
        variant = {"VariantName": config, "ModelName": name, "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
        sagemaker.create_endpoint_config(EndpointConfigName=config, ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=configs[0])
    _wait(sagemaker, name)
    sagemaker.update_endpoint(EndpointName=name, EndpointConfigName=configs[1])
    _wait(sagemaker, name)
    sagemaker.delete_endpoint(EndpointName=name)
    sagemaker.get_waiter("endpoint_deleted").wait(EndpointName=name, WaiterConfig={"Delay": 0.05, "MaxAttempts": 600})
    for config in configs:
        sagemaker.delete_endpoint_config(EndpointConfigName=config)
    sagemaker.delete_model(ModelName=name)


def _wait(sagemaker: Any, name: str) -> None:
    while (status := sagemaker.describe_endpoint(EndpointName=name)["EndpointStatus"]) != "InService":
        if status == "Failed":
            raise RuntimeError(f"{name} failed")
        time.sleep(0.02)


def _footprint(pid: int, folder: Path) -> Footprint:
    resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return Footprint(
        resident / 1e6,
        len(os.listdir(f"/proc/{pid}/fd")),
        len(family(pid)),
        sum(len(files) for _, _, files in os.walk(folder)),
    )


if __name__ == "__main__":
    main()
