"""What MLflow, the network and the disk of a study's home complain of, in one sentence each."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from softprompt.errors import TrackingRefused, TrackingUnavailable, in_short, without_passwords
from softprompt.files import unusable, usable
from softprompt.study import Study

REMEDIES = {
    401: "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD where this runs",
    403: "give the user of MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD the permission EDIT on the experiment",
}
"""By the status with which a server refuses a user."""


@contextmanager
def in_sentences(study: Study) -> Iterator[None]:
    """Turn the many ways in which a study's store fails inside the block into a few errors.

    Raises:
        TrackingUnavailable: the server does not answer.
        TrackingRefused: it answers, and not to this user.
        HomeUnavailable: the study's home, or MLflow's store there, cannot be used.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with usable(study.home):
            yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        if not study.tracking_uri and (fault := _databases(error)):
            raise unusable(study.home, fault) from None
        reason = in_short(without_passwords(str(_cause(error))))
        kind, remedy = TrackingUnavailable, "start it, or correct `tracking_uri` in the study"
        if "Invalid Host header" in reason:
            remedy = "start it with the host of `tracking_uri` among its --allowed-hosts"
        elif (status := _status(error)) in REMEDIES:
            kind, remedy = TrackingRefused, REMEDIES[status]
        if os.strerror(errno.ENOSPC) in reason:
            remedy = "make room on that disk"
        raise kind(
            f"MLflow at {without_passwords(study.mlflow_uri)} cannot be used ({reason}); nothing computed is lost: "
            f"{remedy}, and the same call goes on from here."
        ) from None  # the cause's own text may hold a password


def _cause(error: BaseException) -> BaseException:
    """Of a connection that failed the innermost error, such as "Connection refused": those around it repeat the address
    and how often it was tried. Any other error itself."""
    from requests import ConnectionError

    chain = _chain(error)
    return chain[-1] if any(isinstance(each, ConnectionError) for each in chain) else error


def _status(error: BaseException) -> int | None:
    """With which a server has answered, as far as MLflow's client or `requests` says."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.get_http_status_code()
    return getattr(getattr(error, "response", None), "status_code", None)


def _databases(error: BaseException) -> str:
    """What the database itself said, if it is its fault and none that passes; else nothing."""
    from sqlalchemy.exc import DatabaseError

    said = next((str(each.orig) for each in _chain(error) if isinstance(each, DatabaseError)), "")
    return "" if "locked" in said else said


def _chain(error: BaseException) -> list[BaseException]:
    """From an error to its innermost cause."""
    chain = [error]
    while deeper := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(deeper)
    return chain
