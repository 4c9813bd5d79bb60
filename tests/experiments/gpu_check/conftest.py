"""A dry run times programs that nobody waits for again: compiling them is what takes the time."""

from tests.models.pipelines.conftest import quickly as quickly
