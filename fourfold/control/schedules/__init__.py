"""Schedules: what people want to run when, and the loop that runs it.

desired     schedules and their groups, as people want them
timing      what is to be done about a schedule now, from its document and the time alone
targets     what a run calls: the operation, and its input with the placeholders filled
runner      the loop that runs what is due, and tries again
letters     runs that were given up, on their way to their dead-letter queues

A schedule's document holds the request's members, and

    cursor      times up to here are dealt with
    pending     the run that is under way: {"scheduled", "attempt", "next"}; None between runs
    last        what became of the last run, for people
    missed      how many scheduled times were passed over, because nobody ran them in time
    dead        the newest runs that were given up, where the target has a dead-letter queue: messages, each `kept`
                until it is `sent` to its queue, or `refused` by it

A run is written down before it is tried, so that a crash between the two costs nothing: it is tried again, under the
same execution id.
"""
