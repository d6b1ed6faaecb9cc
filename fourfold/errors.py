"""Every error that a user can meet: one tree, each with its code and status on the wire.

FourfoldError
├── ValidationException            400  a control-plane request that breaks a rule
├── ValidationError                400  the same on the runtime API (AWS spells it differently there)
│   └── PayloadTooLarge            413
├── ResourceNotFound               400  a job, schedule or definition that does not exist
├── ResourceInUse                  400  a name that is taken, or a resource that something still uses
├── ResourceLimitExceeded          400
├── ConflictException              400
├── UnknownOperationException      400  AWS has the operation; this server does not (yet)
├── AuthenticationError            403  missing, malformed, expired or wrong credentials (`code` says which)
├── S3Error                        400  or what S3 gives: `code` and `status` say which
├── ThrottlingException            429  a full queue, or more calls at once than allowed
├── ModelError                     424  the model answered with an error, or died while answering
├── ModelNotReadyException         429
├── ServiceUnavailable             503
├── InternalFailure                500
└── ModelLoadError                 never on the wire: becomes the endpoint's FailureReason

A message says what was wrong and what to do next. `api` turns an error into bytes in the protocol of the call.
"""

from __future__ import annotations


class FourfoldError(Exception):
    """Root of the tree. `code` and `status` are what an AWS client sees."""

    code: str = "InternalFailure"
    status: int = 500
    retry_after: int | None = None
    """Seconds after which the same request may go well, for a Retry-After header."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ValidationException(FourfoldError):
    code = "ValidationException"
    status = 400


class ValidationError(FourfoldError):
    code = "ValidationError"
    status = 400


class PayloadTooLarge(ValidationError):
    status = 413


class ResourceNotFound(FourfoldError):
    code = "ResourceNotFound"
    status = 400


class ResourceInUse(FourfoldError):
    code = "ResourceInUse"
    status = 400


class ResourceLimitExceeded(FourfoldError):
    code = "ResourceLimitExceeded"
    status = 400


class ConflictException(FourfoldError):
    code = "ConflictException"
    status = 400


class UnknownOperationException(FourfoldError):
    code = "UnknownOperationException"
    status = 400


class AuthenticationError(FourfoldError):
    """Credentials that do not hold. The code is AWS's own for the case and service, hence per instance."""

    status = 403

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class S3Error(FourfoldError):
    """A request of the S3 door that cannot be met, with S3's own code for it.

    Args:
        code: S3's code, e.g. NoSuchKey.
        message: S3's words, or what to do next.
        status: S3's status for that code.
        resource: the bucket or key it is about.
    """

    def __init__(self, code: str, message: str, status: int = 400, resource: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.resource = resource


class ThrottlingException(FourfoldError):
    code = "ThrottlingException"
    status = 429


class ModelError(FourfoldError):
    """The model's own failure, with what SageMaker tells beside it.

    Args:
        message: what the client reads first.
        original_status: HTTP status that the model (or its handler) answered with; 500 for an exception.
        original_message: the model's own words, traceback included where there is one.
        log_stream: where the worker's log with the full traceback is.
    """

    code = "ModelError"
    status = 424

    def __init__(
        self, message: str, *, original_status: int = 500, original_message: str = "", log_stream: str = ""
    ) -> None:
        super().__init__(message)
        self.original_status = original_status
        self.original_message = original_message or message
        self.log_stream = log_stream


class ModelNotReadyException(FourfoldError):
    code = "ModelNotReadyException"
    status = 429


class ServiceUnavailable(FourfoldError):
    code = "ServiceUnavailable"
    status = 503


class InternalFailure(FourfoldError):
    code = "InternalFailure"
    status = 500


class ModelLoadError(FourfoldError):
    """An artifact that cannot become a running model; the message is the endpoint's FailureReason."""

    code = "ModelLoadError"
    status = 500
