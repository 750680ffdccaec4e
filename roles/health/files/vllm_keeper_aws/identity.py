# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which host this is, from the instance metadata (IMDSv2 only)."""

from __future__ import annotations

import http.client
import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from vllm_keeper_aws.errors import ToolError

SERVICE = "http://169.254.169.254"
WITHIN = 2.0  # it is on the host's own link: an answer takes a millisecond, or does not come


@dataclass
class Metadata:
    """Asks for a token once. The name of the environment variable is botocore's."""

    token: str = ""

    def __post_init__(self) -> None:
        self.service = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "").rstrip("/") or SERVICE

    def text(self, path: str) -> str:
        """What stands at `/latest/meta-data/PATH`; "" where there is nothing."""
        self.token = self.token or self._ask("PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds", "60")
        return self._ask("GET", f"/latest/meta-data/{path}", "X-aws-ec2-metadata-token", self.token)

    def _ask(self, method: str, path: str, header: str, value: str) -> str:
        # Never through a proxy, which would be asked about its own host.
        try:
            parts = urlsplit(self.service)
            link = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=WITHIN)
            try:
                link.request(method, path, headers={header: value})
                answer = link.getresponse()
                body = answer.read(65536).decode("utf-8", "replace").strip()
            finally:
                link.close()
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise ToolError("unreachable", f"{self.service}{path}: {error!r}; {REMEDY}") from error
        if answer.status == 404 and method == "GET":
            return ""
        if answer.status != 200:
            raise ToolError("unreachable", f"{self.service}{path}: status {answer.status}; {REMEDY}")
        return body


REMEDY = (
    "allow the instance metadata (IMDSv2) on this host, or give instance id, region and addresses in the configuration"
)


@dataclass
class Identity:
    """What was given counts; only the rest is asked for."""

    given_id: str = ""
    given_region: str = ""
    given_addresses: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._metadata = Metadata()

    @property
    def instance_id(self) -> str:
        if not self.given_id:
            self.given_id = self._need("instance-id", "--instance-id")
        return self.given_id

    @property
    def region(self) -> str:
        if not self.given_region:
            self.given_region = self._need("placement/region", "--region")
        return self.given_region

    @property
    def addresses(self) -> tuple[str, ...]:
        """For target groups whose targets are addresses."""
        if not self.given_addresses:
            self.given_addresses = tuple(self._need("local-ipv4", "--address").split())
        return self.given_addresses

    def _need(self, path: str, option: str) -> str:
        value = self._metadata.text(path)
        if not value:
            raise ToolError("not_found", f"the instance metadata has no {path}; give {option}")
        return value
