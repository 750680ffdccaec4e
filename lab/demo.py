# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo's end: questions about pictures through the balancer, two kills while requests go on, where to look.

python -m lab.demo
"""

from __future__ import annotations

import sys
import time

import requests

from lab import client, pictures


def say(text: str = "") -> None:
    print(text, flush=True)


def questions(lab: client.Lab) -> int:
    """Ask five pictures; the number of wrong answers."""
    say(f"\nFive pictures, asked through the balancer at {lab.url}")
    trained = client.trained()
    if not trained:
        say("  This machine had no time to train the lab's model: its weights are random, so its answers are noise.")
    say(f"  {'question':<51} {'expected':<9} {'answer':<9} {'host':<6} seconds")
    wrong = 0
    for picture in pictures.pictures(5, seed=time.time_ns() % 10_000):
        answer = client.ask(lab.url, lab.model, picture)
        wrong += not pictures.right(picture.colour, answer.text)
        host = answer.served_by or "?"
        say(f"  {picture.question:<51} {picture.colour:<9} {answer.text[:9]:<9} {host:<6} {answer.seconds:.2f}")
    return wrong if trained else 0


def survive(lab: client.Lab, host: str, what: str) -> bool:
    """Kill a host's API or engine while requests go on; whether it came back without orphans."""
    title = "API server" if what == "api" else "engine"
    say(f"\nkill -9 of the {title} on {host}, while requests go on through the balancer")
    before = set(client.processes(host))
    with client.Stream(lab.url, lab.model) as stream:
        time.sleep(2)
        client.kill(host, what)
        began = time.monotonic()
        client.wait_until(lambda: not client.answers(lab.direct(host), lab.model, 3), 30, f"{host} going away", 0.1)
        try:
            while not client.answers(lab.direct(host), lab.model, 5):
                if time.monotonic() - began > 600:
                    say(f"  {host} did not come back within 600 s: podman exec {host} journalctl -u qwen3vl -n 50")
                    return False
                time.sleep(0.5)
        finally:
            away = time.monotonic() - began
        time.sleep(2)
    left = before & set(client.processes(host))
    say(f"  {host} was away for {away:.0f} s; {len(left)} processes of before are left")
    served = ", ".join(f"{name} {count}" for name, count in sorted(stream.served.items()))
    say(f"  {stream.asked} requests meanwhile, {len(stream.lost)} lost ({served})")
    for line in stream.lost[:5]:
        say(f"    lost at {line}")
    return not left


def where_to_look(lab: client.Lab) -> None:
    """The next commands."""
    first = next(iter(lab.hosts))
    say("\nWhere to look")
    for what, command in (
        ("ask it yourself", f"curl {lab.url}/v1/models"),
        ("state", f"podman exec {first} vllm-keeper status"),
        ("service", f"podman exec {first} systemctl status {lab.instance}"),
        ("log", f"podman exec {first} journalctl -u {lab.instance} -n 50"),
        ("balancer", "podman exec lb1 curl -s 'http://127.0.0.1:8404/stats;csv'"),
        ("change something", "edit inventories/lab, then: . .venv/bin/activate && ansible-playbook site.yml --diff"),
        ("prove it", "make test"),
        ("remove the lab", "make down"),
    ):
        say(f"  {what:<17} {command}")


def main() -> int:
    """Run the demo on a lab that site.yml converged; 0 if all that it claims was seen."""
    lab = client.Lab.read()
    try:
        wrong = questions(lab)
    except requests.RequestException as err:
        say(f"\nThe balancer at {lab.url} did not answer: {err}")
        say("Run `make demo` again; if it stays so: podman exec lb1 journalctl -u haproxy -n 20")
        return 1
    hosts = list(lab.hosts)
    survived = [survive(lab, hosts[0], "api"), survive(lab, hosts[-1], "engine")]
    where_to_look(lab)
    if wrong > 1 or not all(survived):
        say(f"\nNot all was as it should be: {wrong} of 5 answers wrong, survived the kills: {survived}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
