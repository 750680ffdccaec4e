# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What went wrong, in one line that says what to do about it."""

from __future__ import annotations

from typing import Any

from botocore import exceptions as b

# The prefix of IAM actions, where it is not the client's name.
PREFIXES = {"elbv2": "elasticloadbalancing"}
DENIED = frozenset(
    (
        "AccessDenied",
        "AccessDeniedException",
        "UnauthorizedOperation",
        "UnauthorizedAccess",
        "Client.UnauthorizedOperation",
    )
)
EXPIRED = frozenset(
    (
        "ExpiredToken",
        "ExpiredTokenException",
        "RequestExpired",
        "InvalidClientTokenId",
        "AuthFailure",
        "SignatureDoesNotMatch",
    )
)
THROTTLED = frozenset(("Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException"))


class ToolError(Exception):
    """kind: denied | credentials | unreachable | timeout | throttled | not_found | refused | usage"""

    def __init__(self, kind: str, text: str, **more: Any) -> None:
        super().__init__(text)
        self.kind, self.more = kind, more


class DeadlineError(BaseException):
    """The time is over. Not an Exception: botocore would take it for trouble on the line, and try again."""


def code_of(error: b.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def explain(error: Exception, service: str, operation: str) -> ToolError:
    """ERROR of a call of OPERATION, such as DescribeTargetHealth, as people and the keeper need it."""
    action = f"{PREFIXES.get(service, service)}:{operation}"
    if isinstance(error, b.ClientError):
        code, said = code_of(error), str(error.response.get("Error", {}).get("Message", "")).strip()
        if code in DENIED:
            text = f"{action} is not allowed: give it to the host's instance role, see docs/aws-ejection.md ({said})"
            return ToolError("denied", text, action=action)
        if code in EXPIRED:
            text = (
                f"{action}: AWS does not take these credentials ({code}: {said}); check the instance role and the clock"
            )
            return ToolError("credentials", text, action=action)
        kind = "throttled" if code in THROTTLED else "refused"
        return ToolError(kind, f"{action} failed: {code}: {said}", action=action)
    if isinstance(error, (b.NoCredentialsError, b.PartialCredentialsError, b.CredentialRetrievalError)):
        text = f"{action}: no credentials; attach an instance role, and allow IMDSv2 from this host"
        return ToolError("credentials", text, action=action)
    if isinstance(error, (b.EndpointConnectionError, b.HTTPClientError)):
        text = f"{action}: AWS cannot be reached ({error}); check the route to it, a VPC endpoint, and --endpoint-url"
        return ToolError("unreachable", text, action=action)
    return ToolError("refused", f"{action} failed: {error}", action=action)
