"""Which telemetry schemas are released? Their texts, by name, wherever this package is installed."""

from importlib import resources


def read_telemetry() -> dict[str, str]:
    """Return the text of every released schema by its name, such as `telemetry-1.0`."""
    files = resources.files(__name__).joinpath("telemetry").iterdir()
    return {
        file.name.removesuffix(".avsc"): file.read_text(encoding="utf-8")
        for file in sorted(files, key=lambda file: file.name)
        if file.name.endswith(".avsc")
    }
