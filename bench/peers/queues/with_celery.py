import os

import job
from celery import Celery

app = Celery("with_celery", broker=os.environ["REDIS_URL"].replace("unix://", "redis+socket://"))
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)


@app.task
def noop() -> None:
    job.done()


def enqueue() -> None:
    noop.delay()
