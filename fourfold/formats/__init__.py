"""Model formats: each knows one kind of artifact. The only place where model frameworks are imported."""
