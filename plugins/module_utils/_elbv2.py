# Copyright (c) 2026, steadfast.vllm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""All calls to ELBv2: four that describe, and ModifyTargetGroup. There is no other, so no target can be lost.

Private to steadfast.vllm: it may change without notice.
"""

from __future__ import annotations

import typing as t

from ansible_collections.amazon.aws.plugins.module_utils.errors import AWSErrorHandler
from ansible_collections.amazon.aws.plugins.module_utils.exceptions import is_ansible_aws_error_code
from ansible_collections.amazon.aws.plugins.module_utils.retries import AWSRetry
from ansible_collections.steadfast.vllm.plugins.module_utils import _target_group_names as names
from ansible_collections.steadfast.vllm.plugins.module_utils._target_groups import Group, resource

# "You cannot describe more than '20' target groups at a time", by names or ARNs
# (https://github.com/ansible-collections/amazon.aws/pull/1593); DescribeTags has the same limit, documented.
BATCH = 20
# The largest page when all are described, so the 3000 that an account may have are 8 calls.
PAGE = 400

# As they come over the wire; the model's own names end in Exception.
NO_GROUP = ["TargetGroupNotFound", "TargetGroupNotFoundException"]
NO_BALANCER = ["LoadBalancerNotFound", "LoadBalancerNotFoundException"]

UNREACHABLE = (
    "ConnectTimeoutError",
    "ConnectionClosedError",
    "EndpointConnectionError",
    "ProxyConnectionError",
    "ReadTimeoutError",
    "SSLError",
)

Described = dict[str, t.Any]


def select(client: t.Any, params: t.Mapping[str, t.Any]) -> list[Group]:
    """The target groups that a task's options name, in as few calls as the API allows."""
    region = client.meta.region_name
    if params["target_groups"] is not None:
        found = _by_names(client, names.parse_groups(params["target_groups"], region), region)
    elif params["load_balancer"] is not None:
        found = _by_balancer(client, params["load_balancer"], region)
    else:
        found = _by_tags(client, names.check_tags(params["tags"]))
    return [resource(group) for group in found]


def modify(client: t.Any, name: str, arguments: t.Mapping[str, t.Any]) -> Group:
    response = _call(f"modify target group {name}", client.modify_target_group, **arguments)
    return resource(response["TargetGroups"][0])


def target_health(client: t.Any, group: Group) -> list[Described]:
    response = _call(
        f"describe the health of target group {group['name']}",
        client.describe_target_health,
        TargetGroupArn=group["arn"],
    )
    return list(response["TargetHealthDescriptions"])


def failure(error: t.Any) -> str:
    """An AnsibleAWSError in words, with what to do about it where that is known."""
    cause = error.exception
    text = f"{error.message}: {cause}" if cause else str(error.message)
    hint = _hint(cause)
    return f"{text}; {hint}" if hint else text


def _by_names(client: t.Any, wanted: t.Sequence[names.Wanted], region: str | None) -> list[Described]:
    asked = list(dict.fromkeys(entry.name for entry in wanted))
    found: list[Described] = []
    for start in range(0, len(asked), BATCH):
        try:
            response = _call(
                "describe target groups", client.describe_target_groups, Names=asked[start : start + BATCH]
            )
        except is_ansible_aws_error_code(NO_GROUP):
            # One that is missing fails the whole batch without saying which: read all, to name the near ones.
            found = _pages(client)
            break
        found += response["TargetGroups"]
    by_arn = {group["TargetGroupArn"]: group for group in found}
    return [by_arn[arn] for arn in names.pick(wanted, found, region)]


def _by_balancer(client: t.Any, text: str, region: str | None) -> list[Described]:
    arn = text
    try:
        if not names.check_balancer(text, region):
            response = _call("describe load balancers", client.describe_load_balancers, Names=[text])
            arn = response["LoadBalancers"][0]["LoadBalancerArn"]
        found = _pages(client, LoadBalancerArn=arn)
    except is_ansible_aws_error_code(NO_BALANCER + NO_GROUP) as error:
        # AWS gives an empty list for a load balancer without target groups; an emulator may say that there is none.
        if isinstance(error, is_ansible_aws_error_code(NO_GROUP, error)):
            raise names.no_group_behind(text) from error
        everyone = _marked(client.describe_load_balancers, "describe load balancers", "LoadBalancers")
        raise names.no_balancer(text, (one["LoadBalancerName"] for one in everyone), region) from error
    if not found:
        raise names.no_group_behind(text)
    return found


def _by_tags(client: t.Any, wanted: t.Mapping[str, str]) -> list[Described]:
    by_arn = {group["TargetGroupArn"]: group for group in _pages(client)}
    arns = list(by_arn)
    tags_of: dict[str, dict[str, str]] = {}
    for start in range(0, len(arns), BATCH):
        response = _call(
            "describe the tags of target groups", client.describe_tags, ResourceArns=arns[start : start + BATCH]
        )
        for entry in response["TagDescriptions"]:
            tags_of[entry["ResourceArn"]] = {tag["Key"]: tag.get("Value", "") for tag in entry["Tags"]}
    return [by_arn[arn] for arn in names.with_tags(wanted, tags_of)]


def _pages(client: t.Any, **arguments: t.Any) -> list[Described]:
    return _marked(client.describe_target_groups, "describe target groups", "TargetGroups", **arguments)


def _marked(operation: t.Callable[..., t.Any], what: str, key: str, **arguments: t.Any) -> list[Described]:
    """All pages of a listing. Not botocore's paginator: a throttled page is retried alone, not from the first on."""
    found: list[Described] = []
    while True:
        response = _call(what, operation, PageSize=PAGE, **arguments)
        found += response[key]
        if not response.get("NextMarker"):
            return found
        arguments["Marker"] = response["NextMarker"]


def _call(what: str, operation: t.Callable[..., t.Any], **arguments: t.Any) -> Described:
    """The handler outside, the retry inside, so that only the last failure is reported."""
    retried = AWSRetry.jittered_backoff(
        catch_extra_error_codes=["HealthUnavailable", "PriorRequestNotComplete", "OperationInProgress"]
    )(operation)
    response: Described = AWSErrorHandler.common_error_handler(what)(retried)(**arguments)
    return response


def _hint(cause: t.Any) -> str:
    kind = type(cause).__name__
    if kind in ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"):
        return (
            "give access_key and secret_key, a profile, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the "
            "environment, or run where there is an instance role"
        )
    if kind in UNREACHABLE:
        return "check endpoint_url, region, and that the network lets this machine reach it"
    code = getattr(cause, "response", {}).get("Error", {}).get("Code", "")
    if code in ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation"):
        return f"allow elasticloadbalancing:{getattr(cause, 'operation_name', '')} in the policy of these credentials"
    if code in ("ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "SignatureDoesNotMatch"):
        return "give credentials that are valid now"
    return ""
