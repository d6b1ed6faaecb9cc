"""What the zygote of batch workers does beside its imports, once for all workers.

pyarrow looks for pandas at its first conversion to or from numpy, and imports it where it is installed: that takes
longer than a small job.
"""

import pyarrow as pa

pa.array([0.0]).to_numpy()
