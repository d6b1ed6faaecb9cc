"""Asynchronous calls: accepted means durable, one outcome each.

accept      from the headers of InvokeEndpointAsync to a queued call: checks, locations, back-pressure
ledger      every change of the queue, many to one synced transaction
dispatch    claims calls for workers that are free; what becomes of a call is settled once
orders      what the dispatcher and the workers say to each other
work        the worker's side: reads the input, has the model answer, keeps a large output aside
publish     makes the object that shows an outcome, and tells the topics
messages    what the topics are told
records     what people see of a call
"""
