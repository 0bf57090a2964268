"""What every table shares: names for constraints, soft deletion, versions. And the base of the platform's tables.

A service's table is `class Thing(BaseModel, table=True)`. SQLModel does not validate table classes: input goes
through the models in the service's schemas first.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import DateTime, MetaData, event
from sqlalchemy.orm import Mapper, ORMExecuteState, Session, registry, with_loader_criteria
from sqlalchemy.sql.base import ExecutableOption
from sqlmodel import Field, SQLModel

# Alembic can only drop or alter what has a name, and the database's own names differ between versions.
NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
SQLModel.metadata.naming_convention = NAMES


class PlatformTable(SQLModel, registry=registry(metadata=MetaData(naming_convention=NAMES))):
    """The base class of the platform's tables, which the service's metadata does not hold.

    So the service's migrations leave them alone, and it may name a class of its own `Job`.
    """


UtcDateTime: Any = DateTime(timezone=True)


class SoftDeleteMixin(SQLModel):
    """Rows with `deleted_at` set stay in the table and out of every ORM query.

    `session.exec(select(Thing).execution_options(include_deleted=True))` sees them all the same. Statements on
    the bare connection (`plinth.database.statement`) pass this by and must name the condition themselves.
    """

    deleted_at: datetime | None = Field(default=None, nullable=True, sa_type=UtcDateTime)


class VersionedMixin(SQLModel):
    """Counts the changes of a row in `version`.

    It makes a good ETag, and of two sessions that change a row at once the second fails at its flush with
    SQLAlchemy's `StaleDataError` instead of undoing the first.
    """

    version: int = Field(default=1, sa_column_kwargs={"server_default": "1"})


@event.listens_for(VersionedMixin, "instrument_class", propagate=True)
def _count_versions(mapper: Mapper[Any], model: type[VersionedMixin]) -> None:
    mapper.version_id_col = mapper.local_table.c.version


_leave_out_deleted_of: list[ExecutableOption] = []


@event.listens_for(SoftDeleteMixin, "mapper_configured", propagate=True)
def _add_criteria(mapper: Mapper[Any], model: type[SoftDeleteMixin]) -> None:
    deleted_at: Any = model.deleted_at
    _leave_out_deleted_of.append(with_loader_criteria(model, deleted_at.is_(None), include_aliases=True))


@event.listens_for(Session, "do_orm_execute")
def _leave_out_deleted(state: ORMExecuteState) -> None:
    if not state.is_column_load and not state.execution_options.get("include_deleted", False):
        state.statement = state.statement.options(*_leave_out_deleted_of)
