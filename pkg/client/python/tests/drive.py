"""Sends to several channels at a time and prints a line for each send that was acknowledged, while
TestEndToEndLanguagesThroughKills kills the server."""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

from sendhouse import Client, Result, Send

NAME = sys.argv[1]
CHANNELS = int(os.environ["DRIVE_CHANNELS"])
SENDS = int(os.environ["DRIVE_SENDS"])
CLIENT = Client(os.environ["SENDHOUSE_URL"], tries_max=1_000, backoff_max=0.3, try_timeout=10)


def make(channel: str, n: int) -> Send:
    no = f"{channel}-{n}"
    return Send(NAME, f"héllo 群 {no}", channel, 2, no)


def show(result: Result) -> None:
    line = {"client_msg_no": result.client_msg_no, "id": str(result.message_id), "seq": result.message_seq}
    os.write(1, json.dumps(line).encode() + b"\n")  # in one piece: other threads write too


def one_after_another(channel: str) -> None:
    for n in range(1, SENDS + 1):
        show(CLIENT.send(make(channel, n)))


def in_bulks(channel: str) -> None:
    for n in range(1, SENDS + 1, 20):
        for outcome in CLIENT.send_bulk([make(channel, i) for i in range(n, min(n + 20, SENDS + 1))]):
            if outcome.error:
                raise outcome.error
            show(outcome.result)


with ThreadPoolExecutor(2 * CHANNELS) as pool:
    work = [pool.submit(one_after_another, f"{NAME}-one-{c}") for c in range(CHANNELS)]
    work += [pool.submit(in_bulks, f"{NAME}-bulk-{c}") for c in range(CHANNELS)]
    for each in work:
        each.result()
