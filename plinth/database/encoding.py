"""Says what is wrong with a database whose encoding is not UTF-8: it refuses or garbles some texts."""

from sqlalchemy import Connection

__all__ = ["encoding_problem"]


def encoding_problem(connection: Connection) -> str | None:
    """A sentence that says how to make a database with the right encoding, or None. Costs no statement."""
    if connection.dialect.name != "postgresql":
        return None
    driver = connection.connection.driver_connection
    encoding = getattr(driver.get_settings(), "server_encoding", "UTF8")  # type: ignore[union-attr]  # told at the start
    if encoding == "UTF8":
        return None
    return (
        f"The database's encoding is {encoding}, and has to be UTF-8: make another one with "
        "CREATE DATABASE … TEMPLATE template0 ENCODING 'UTF8'"
    )
