"""The service's jobs, one module for each resource.

Importing this package registers every kind of job and every schedule. The API imports it too, because `enqueue` has to
know the kind's queue and limits.
"""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
