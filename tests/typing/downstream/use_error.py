"""A program that needs pingora-error and nothing else."""

from __future__ import annotations

from pingora_error import Error, ErrorSource, ErrorType, HTTPStatus, wrap


def read(path: str) -> bytes:
    """Read a file, failing in the way of the framework."""
    with wrap(OSError, etype=ErrorType.FILE_OPEN_ERROR, context=path), open(path, "rb") as file:  # noqa: PTH123
        return file.read()


def status_of(error: Error) -> int:
    """Choose the status for an error."""
    match error.etype:
        case HTTPStatus(code):
            return code
        case ErrorType.FILE_OPEN_ERROR:
            return 404
        case _:
            return 500


def main() -> None:
    """Fail in two ways."""
    try:
        read("/does/not/exist")
    except Error as error:
        assert status_of(error) == 404
        assert isinstance(error.root_cause, FileNotFoundError)
    refusal = Error.down(HTTPStatus(403), "not you")
    assert status_of(refusal) == 403
    assert refusal.esource is ErrorSource.DOWNSTREAM
    assert not refusal.should_retry


if __name__ == "__main__":
    main()
