"""Tell Prefect that a checkpoint is there, so that the deployment `on-event` evaluates it at once."""

from softprompt.bucket import Bucket
from softprompt.completeness import list_files
from softprompt.errors import without_passwords
from tasks.retries import PrefectUnavailable

EVENT = "checkpoint.ready"
RESOURCE = "softprompt.checkpoint."


def announce_checkpoint(uri: str) -> str:
    """Emit `checkpoint.ready` and wait until Prefect has taken it; the place as it was announced, a local path in full.

    Raises:
        PrefectUnavailable: there is no server, or it does not take the event. The schedule will find the checkpoint
            without it.
        BadBucket: this is no place that can be read, or holds a password.
        BadCheckpoint: there is no such folder on this machine.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.events.schemas.events import Event, Resource
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        raise PrefectUnavailable(
            "PREFECT_API_URL is not set; set it to the Prefect server's, e.g. http://127.0.0.1:4200/api."
        )
    bucket, server = Bucket(uri), without_passwords(PREFECT_API_URL.value())
    if bucket.is_local:
        list_files(bucket, "")  # raises if it is mistyped, which else would be known only where it is evaluated
    place = bucket.url
    resource = Resource({"prefect.resource.id": RESOURCE + place})
    event = Event(event=EVENT, resource=resource, payload={"uri": place})
    try:
        with get_client(sync_client=True) as client:
            client.request("POST", "/events", json=[event.model_dump(mode="json")])
    except (httpx.HTTPError, RuntimeError) as error:
        raise PrefectUnavailable(
            f"Prefect at {server} did not take the event ({type(error).__name__}); start it or "
            "correct PREFECT_API_URL. The scheduled watcher will find the checkpoint all the same."
        ) from error
    return place
