"""AWS's protocols, each a module with the functions of `base.Wire`.

aws_json    JSON 1.0 and 1.1: the operation in a header, its members in the body
rest_json   REST-JSON: members in path, query, headers and body
query       a form in, XML out
rpc_cbor    Smithy's RPC in CBOR
"""
