"""Inference recommendations jobs: one model under load in several configurations, and what each bears and costs.

    wish           CreateInferenceRecommendationsJob and Stop write the job's status and wake the runner
    running        one job at a time, one benchmark at a time (`benchmark`, a process of its own), so that nothing but
                   the server's other work disturbs what is measured
    result         each finished benchmark is in the store at once; after a restart the job goes on with the next

Every configuration runs on this machine: an instance type gives the worker as many threads as it has vCPUs, up to the
cores that are here, and its price. What a larger machine would bear is not guessed.

jobs            the jobs, and the loop that runs them
configurations  what a job tries
traffic         the load that it puts on
benchmarks      one configuration measured, in a process of its own
payloads        the sample requests that a job brings
figures         what was measured, as SageMaker tells it
"""
