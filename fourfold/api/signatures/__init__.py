"""Who sends a request: SigV4, header and presigned form, or a bearer token.

verifier    the way in: what a request carries, and who that is
claims      what an Authorization header says beside its signature
checks      what every signature is checked for: its key, its time, itself
presigned   signatures in the query of a URL
tokens      bearer tokens
known       further requests with the head of one that came in

Written for the fast lane: a bearer token is one dictionary look-up; a SigV4 check is a few string joins and three
one-shot hashes, with the signing key of the day kept, and for a head like the one before with the text that was signed
then. Of a request to S3 the head is checked here; its body comes as a stream and is checked by the S3 door.

Algorithm: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""
