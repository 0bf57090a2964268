"""The platform's revisions: one line, labelled `plinth`. Released ones never change.

Their ids begin with `plinth_`, so that code tells one that it does not know yet from the service's. A new one:
`plinth with-servers -- alembic revision --autogenerate --head plinth@head -m "…"`.
"""
