"""The answers of `sts` and `iam` that clients and SDKs need: everybody is one role, and the role may do everything.

Who may come in at all is decided by keys (`signatures`); there are no permissions below that.
"""

from __future__ import annotations

from typing import Any, ClassVar
from urllib.parse import quote

import msgspec

from fourfold.api.keys import Keys
from fourfold.api.protocol import ApiCall, operation
from fourfold.clock import Clock
from fourfold.errors import AuthenticationError
from fourfold.records import Partition

ROLE = "FourfoldRole"
SESSION_SECONDS = 3600
"""How long an assumed role is said to last where the call does not say; the key behind it lasts until it is deleted."""

_TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}


def assumed_role(partition: Partition) -> str:
    """ARN of whoever calls."""
    return f"arn:aws:sts::{partition.account}:assumed-role/{ROLE}/fourfold"


class Sts:
    """GetCallerIdentity: an assumed role, so that the SDK's `get_execution_role` works. AssumeRole, for profiles that
    have one: its credentials are the caller's own key, because every role may do the same.

    Args:
        partition: for ARNs.
        keys: whose key the caller has.
        clock: for Expiration.
    """

    service: ClassVar = "sts"

    def __init__(self, partition: Partition, keys: Keys, clock: Clock) -> None:
        self._partition = partition
        self._keys = keys
        self._clock = clock

    @operation(
        "AssumeRole",
        kept=(
            "PolicyArns", "Policy", "Tags", "TransitiveTagKeys", "ExternalId", "SerialNumber", "TokenCode",
            "SourceIdentity", "ProvidedContexts",
        ),
    )  # fmt: skip
    async def assume_role(self, call: ApiCall) -> dict[str, Any]:
        key = self._keys.by_id(call.access_key_id)
        if key is None:  # it was deleted a moment ago
            raise AuthenticationError("InvalidClientTokenId", "The security token included in the request is invalid.")
        role, session = call.params["RoleArn"].rpartition("/")[2], call.params["RoleSessionName"]
        return {
            "Credentials": {
                "AccessKeyId": key.access_key_id,
                "SecretAccessKey": key.secret_access_key,
                "SessionToken": f"{role}/{session}",
                "Expiration": self._clock.now() + call.params.get("DurationSeconds", SESSION_SECONDS),
            },
            "AssumedRoleUser": {
                "AssumedRoleId": f"AROAFOURFOLD:{session}",
                "Arn": f"arn:aws:sts::{self._partition.account}:assumed-role/{role}/{session}",
            },
        }

    @operation("GetCallerIdentity")
    async def get_caller_identity(self, call: ApiCall) -> dict[str, Any]:
        account = self._partition.account
        return {
            "UserId": f"AROAFOURFOLD:{ROLE}",
            "Account": account,
            "Arn": assumed_role(self._partition),
        }


class Iam:
    """GetRole and SimulatePrincipalPolicy, which the SDKs ask before they deploy."""

    service: ClassVar = "iam"

    def __init__(self, partition: Partition) -> None:
        self._partition = partition

    @operation("GetRole")
    async def get_role(self, call: ApiCall) -> dict[str, Any]:
        name = call.params["RoleName"]
        return {
            "Role": {
                "Path": "/",
                "RoleName": name,
                "RoleId": "AROAFOURFOLD",
                "Arn": f"arn:aws:iam::{self._partition.account}:role/{name}",
                "CreateDate": 0.0,
                "AssumeRolePolicyDocument": quote(msgspec.json.encode(_TRUST).decode()),
            }
        }

    @operation("SimulatePrincipalPolicy")
    async def simulate_principal_policy(self, call: ApiCall) -> dict[str, Any]:
        results = [
            {"EvalActionName": action, "EvalResourceName": "*", "EvalDecision": "allowed"}
            for action in call.params["ActionNames"]
        ]
        return {"EvaluationResults": results, "IsTruncated": False}
