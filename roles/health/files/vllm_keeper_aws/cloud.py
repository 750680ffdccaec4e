# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The only place where AWS is called: short time limits, few retries, errors that name the IAM action."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import boto3
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from vllm_keeper_aws.errors import explain

CONNECT, READ, TRIES = 3, 8, 3


class Cloud:
    def __init__(self, region: str, endpoint: str = "", deadline: float = 30.0) -> None:
        self.region, self._endpoint = region, endpoint
        self._until = time.monotonic() + deadline
        self._clients: dict[str, Any] = {}

    def left(self) -> float:
        return self._until - time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(max(0.0, min(seconds, self.left())))

    def client(self, service: str) -> Any:
        if service not in self._clients:
            config = Config(
                connect_timeout=CONNECT,
                read_timeout=READ,
                retries={"mode": "standard", "total_max_attempts": TRIES},
                user_agent_extra="steadfast.vllm-keeper",
            )
            # Its overloads know the services by name; this one comes as a variable.
            session: Any = boto3.session.Session(region_name=self.region)
            try:
                self._clients[service] = session.client(service, endpoint_url=self._endpoint or None, config=config)
            except (BotoCoreError, ValueError) as error:  # an endpoint that is no URL
                raise explain(error, service, "*") from error
        return self._clients[service]

    def call(self, service: str, operation: str, **request: Any) -> dict[str, Any]:
        """OPERATION in AWS's own spelling, which is also the name of its IAM action."""
        client = self.client(service)
        try:
            answer: dict[str, Any] = getattr(client, xform_name(operation))(**request)
        except (ClientError, BotoCoreError) as error:
            raise explain(error, service, operation) from error
        return answer

    def pages(self, service: str, operation: str, key: str, marker: str, **request: Any) -> Iterator[dict[str, Any]]:
        """Everything under KEY of all pages; MARKER is `Marker` or `NextToken`."""
        names = {"Marker": "NextMarker"}
        while True:
            answer = self.call(service, operation, **request)
            yield from answer.get(key, [])
            following = answer.get(names.get(marker, marker))
            if not following:
                return
            request[marker] = following
