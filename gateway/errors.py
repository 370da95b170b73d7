"""Every error that Sluice raises on purpose, one tree, each with a stable code.

    SluiceError
    ├── Invalid                  what was asked cannot be: fix it
    │   ├── RecipeInvalid        a recipe file is broken (file, line, column, field)
    │   ├── ParameterInvalid     an answer to a recipe's parameter is not allowed
    │   ├── SettingsInvalid      sluice.toml or the environment is wrong
    │   ├── PolicyInvalid        a policy file is broken (file, line, column)
    │   ├── TooLarge             the request is longer than is taken here
    │   │   └── HeadTooLarge     its headers are too many or too long
    │   └── SubmitRefused        Slurm refuses this job for good (partition, account, time)
    ├── NotFound                 there is no such thing, or you may not know of it
    │   ├── RecipeNotFound
    │   ├── SessionNotFound
    │   ├── ClusterNotFound
    │   ├── ProjectNotFound
    │   ├── UserNotFound
    │   ├── TokenNotFound
    │   ├── SecretNotFound
    │   ├── VolumeNotFound
    │   ├── FileNotFound
    │   ├── TaskNotFound
    │   └── ImageMissing         the recipe's image is not on the cluster yet
    ├── Conflict                 it is not in a state for that
    │   ├── NotReady             the session has no endpoint now
    │   └── LeaseLost            another server works for the cluster now: nothing was written
    ├── Unauthenticated          who are you?
    ├── Forbidden                you may not
    │   └── PolicyDenied         a policy forbids it, or none permits it: `policy` names it
    ├── Unavailable              something we depend on does not answer: try again later
    │   ├── ProviderUnavailable  the identity provider does not answer: nobody new can sign in
    │   ├── SchedulerUnavailable Slurm did not answer, or not in time
    │   │   └── LibslurmUnusable pyslurm or libslurm is missing here, or of another Slurm, or has no slurm.conf
    │   ├── SubmitUnknown        the answer to a submit was lost: look the job up, never repeat
    │   ├── SubmitDeferred       a limit is reached (jobs, QOS, association): wait
    │   ├── DatabaseUnavailable  the database does not answer, or somebody holds its lock
    │   ├── StorageFull          no room is left for the database: nothing was written
    │   ├── WriteUnknown         the database went away in a commit: look before asking again
    │   ├── FilesUnavailable     the cluster's files cannot be reached
    │   ├── Overloaded           too many requests wait for the session already
    │   └── EndpointUnavailable  the session's node does not answer
    ├── TooMany                  you ask for more than you may have at once, or in a minute
    ├── SessionFailed            a session that was waited for ended otherwise; its own words are in the message
    ├── TimedOut                 it did not happen in the time given
    │   └── TooSlow              the request did not come in time
    ├── NotTrusted               the gateway's certificate is not one to be trusted: nothing was sent
    ├── AuditBroken              the audit log is not what was written: a row is missing or was changed
    ├── ImageBuildFailed         a build ran and failed; its last lines are in the message
    └── ClusterError             the local cluster cannot be built, started or ended

Messages say what is wrong and where; `hint` says what to do. HTTP status codes are given in
gateway/web/errors.py, exit codes in gateway/cli/errors.py, and nowhere else.
"""

from typing import Any, ClassVar


class SluiceError(Exception):
    """Base of all. `code` is stable and documented; `retryable` says whether the same call may succeed later."""

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "", **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class Invalid(SluiceError):
    code = "invalid"


class RecipeInvalid(Invalid):
    code = "recipe_invalid"


class ParameterInvalid(Invalid):
    code = "parameter_invalid"


class SettingsInvalid(Invalid):
    code = "settings_invalid"


class PolicyInvalid(Invalid):
    code = "policy_invalid"


class TooLarge(Invalid):
    code = "too_large"


class HeadTooLarge(TooLarge):
    code = "head_too_large"


class SubmitRefused(Invalid):
    code = "submit_refused"


class NotFound(SluiceError):
    code = "not_found"


class RecipeNotFound(NotFound):
    code = "recipe_not_found"


class SessionNotFound(NotFound):
    code = "session_not_found"


class ClusterNotFound(NotFound):
    code = "cluster_not_found"


class ProjectNotFound(NotFound):
    code = "project_not_found"


class UserNotFound(NotFound):
    code = "user_not_found"


class TokenNotFound(NotFound):
    code = "token_not_found"


class SecretNotFound(NotFound):
    code = "secret_not_found"


class VolumeNotFound(NotFound):
    code = "volume_not_found"


class FileNotFound(NotFound):
    code = "file_not_found"


class TaskNotFound(NotFound):
    code = "task_not_found"


class ImageMissing(NotFound):
    code = "image_missing"


class Conflict(SluiceError):
    code = "conflict"


class NotReady(Conflict):
    code = "not_ready"
    retryable = True


class LeaseLost(Conflict):
    code = "lease_lost"


class Unauthenticated(SluiceError):
    code = "unauthenticated"


class Forbidden(SluiceError):
    code = "forbidden"


class PolicyDenied(Forbidden):
    code = "policy_denied"


class Unavailable(SluiceError):
    code = "unavailable"
    retryable = True


class ProviderUnavailable(Unavailable):
    code = "provider_unavailable"


class SchedulerUnavailable(Unavailable):
    code = "scheduler_unavailable"


class LibslurmUnusable(SchedulerUnavailable):
    code = "libslurm_unusable"


class SubmitUnknown(Unavailable):
    code = "submit_unknown"
    retryable = False


class SubmitDeferred(Unavailable):
    code = "submit_deferred"


class DatabaseUnavailable(Unavailable):
    code = "database_unavailable"


class StorageFull(Unavailable):
    code = "storage_full"


class WriteUnknown(Unavailable):
    code = "write_unknown"
    retryable = False


class FilesUnavailable(Unavailable):
    code = "files_unavailable"


class Overloaded(Unavailable):
    code = "overloaded"


class TooMany(SluiceError):
    code = "too_many_requests"
    retryable = True


class EndpointUnavailable(Unavailable):
    code = "endpoint_unavailable"


class SessionFailed(SluiceError):
    code = "session_failed"


class TimedOut(SluiceError):
    code = "timed_out"
    retryable = True


class TooSlow(TimedOut):
    code = "too_slow"


class NotTrusted(SluiceError):
    code = "not_trusted"


class AuditBroken(SluiceError):
    code = "audit_broken"


class ImageBuildFailed(SluiceError):
    code = "image_build_failed"


class ClusterError(SluiceError):
    code = "cluster_error"


def tree(base: type[SluiceError] = SluiceError) -> list[type[SluiceError]]:
    """Every error class, parents before children, in order of definition."""
    return [base, *(cls for child in base.__subclasses__() for cls in tree(child))]
