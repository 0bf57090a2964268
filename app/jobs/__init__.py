"""What the workers do: one module for each aggregate, entry points like those of `app.api`.

Importing this package registers every kind of job and every schedule. The API imports it as well: who enqueues a job
has to know its queue and its limits.
"""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
