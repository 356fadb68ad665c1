"""How does the house speak of itself? One JSON event a line, for a batch or a transition; never payload or secrets."""

import logging
import sys

import structlog


def open_journal(level: str) -> None:
    """Write events of this level and above to standard error, those of the libraries (warnings only) included."""
    stamps: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*stamps, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),  # one write a line: processes share the stream
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(processor=structlog.processors.JSONRenderer(), foreign_pre_chain=stamps)
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
