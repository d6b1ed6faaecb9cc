"""The answers of `sts` and `iam` that clients and SDKs need: everybody is one role, and the role may do everything.

Who may come in at all is decided by keys (`signatures`); there are no permissions below that.
"""

from __future__ import annotations

from typing import Any, ClassVar
from urllib.parse import quote

import msgspec

from fourfold.api.protocol import ApiCall, operation
from fourfold.records import Partition

ROLE = "FourfoldRole"

_TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}


def assumed_role(partition: Partition) -> str:
    """ARN of whoever calls."""
    return f"arn:aws:sts::{partition.account}:assumed-role/{ROLE}/fourfold"


class Sts:
    """GetCallerIdentity: an assumed role, so that the SDK's `get_execution_role` works."""

    service: ClassVar = "sts"

    def __init__(self, partition: Partition) -> None:
        self._partition = partition

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
