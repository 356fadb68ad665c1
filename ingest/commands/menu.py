"""What can be typed? Commands by name, of which none is loaded before it is asked for."""

import pkgutil

import click


class Listed(click.Command):
    """A command that stands elsewhere: its name, where it is, and what the help of its group says of it.

    To be run it is loaded, and so are the libraries that it needs: a worker has no use for those of the load tests.
    """

    def __init__(self, name: str, place: str, about: str, lent: str | None = None) -> None:
        super().__init__(name, help=about)
        self.place = place  # module:attribute
        self.lent = lent  # the same, of what its module may not know itself: what `click.pass_obj` gives it

    def load(self) -> click.Command:
        """Load the command itself."""
        command: click.Command = pkgutil.resolve_name(self.place)
        return command

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: object
    ) -> click.Context:
        """Give way to the command itself: with this call click begins to run a command, or to complete its words."""
        if self.lent is not None:
            extra["obj"] = pkgutil.resolve_name(self.lent)
        return self.load().make_context(info_name, args, parent, **extra)
