"""PostgreSQL and Redis from wheels, for development and tests: no Docker, no root, no installed server."""
